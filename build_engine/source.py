"""Where a checkpoint comes from: made here, a local directory, or the hub; and what clients call the model."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from build_engine import fetch
from build_engine.spec import BuildSpec
from build_engine.staging import cache_directory
from build_engine.synthetic import checkpoint as synthetic
from contract.errors import BuildError

log = logging.getLogger(__name__)


def locate(spec: BuildSpec) -> Path:
    """The checkpoint's directory: made, local or fetched."""
    if spec.synthetic:
        return synthetic.cached(spec.model)
    local = Path(spec.model)
    if local.is_dir():
        return local
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", spec.model) or spec.model.startswith("."):
        raise BuildError(f"--model: {spec.model!r} is neither a directory nor a hub id like Qwen/Qwen2.5-7B-Instruct")
    home = cache_directory() / "hub" / f"{spec.model.replace('/', '--')}-{spec.revision or 'main'}"
    home.mkdir(parents=True, exist_ok=True)
    if fetch.missing_files(home) or not fetch.revision_of(home):
        log.info("hub: fetching %s (an interrupted download goes on where it stopped)", spec.model)
        fetch.fetch(spec.model, home, spec.revision)
    return home


def model_name(spec: BuildSpec) -> str:
    """The last part of the path or hub id, in lower case."""
    if spec.synthetic:
        return synthetic.SHAPES[spec.model].name
    return (
        Path(spec.model.rstrip("/")).resolve().name.lower()
        if Path(spec.model).is_dir()
        else spec.model.split("/")[-1].lower()
    )
