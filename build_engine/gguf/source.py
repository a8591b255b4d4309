"""A GGUF file as the source of an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from build_engine.checkpoint import Tensors
from build_engine.gguf.checkpoint import GgufTensors
from build_engine.gguf.config import config_of
from build_engine.gguf.header import SHARD, read
from build_engine.gguf.tokenizer import GgufTokenizer


class GgufSource:
    """``sampling`` replaces the file's sampling defaults; ``revision`` says where the file came from."""

    def __init__(self, path: Path, sampling: dict[str, Any] | None = None, revision: str = "") -> None:
        """Raises ``BuildError`` for a file that cannot be built, before anything is written."""
        header = read(path)
        self._tensors = GgufTensors(header)
        self.config = config_of(header, self._tensors)
        self._tokenizer = GgufTokenizer(header)
        self._sampling = sampling
        self.name = str(path)
        self.files = list(header.files)
        self.revision = revision
        self.is_low_bit = self._tensors.is_low_bit

    def tensors(self, config: dict[str, Any]) -> Tensors:
        self._tensors.config = config
        return self._tensors

    def write_tokenizer(self, directory: Path) -> None:
        self._tokenizer.write(directory, int(self.config["max_position_embeddings"]), self._sampling)


def name_of(path: Path) -> str:
    """The file's name without its ending, in lower case."""
    return SHARD.sub("", path.name).lower().removesuffix(".gguf")
