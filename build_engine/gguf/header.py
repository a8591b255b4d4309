"""Read a GGUF file's metadata and where its tensors lie; sharded files are read as one.

Format: https://github.com/ggml-org/ggml/blob/9d325133eed396b7bf005a53a83d9747cbd8bde1/docs/gguf.md.
PyPI's ``gguf`` package reads it too but makes a numpy view per string: 1.8 s for a vocabulary of 49,152, against 0.1 s
here. We do use its dequantization (``checkpoint``).
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contract.errors import BuildError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY, BOOL = 8, 9, 7
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d"}
MAX_DIMENSIONS = 8
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True)
class Tensor:
    """``kind`` is GGML's type number; ``shape`` is numpy's, rows first; ``offset`` is bytes from the file's start."""

    map: mmap.mmap
    path: Path
    offset: int
    shape: tuple[int, ...]
    kind: int


@dataclass(frozen=True, slots=True)
class Header:
    """``files`` are all shards in order; ``metadata`` is the first one's."""

    files: tuple[Path, ...]
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))


def read(path: Path) -> Header:
    """All shards of the model that ``path`` belongs to. Raises ``BuildError`` when one is missing or damaged."""
    files = shards(path)
    metadata, tensors = _one(files[0])
    for other in files[1:]:
        tensors |= _one(other)[1]
    promised = metadata.get("split.tensors.count", len(tensors))
    if int(metadata.get("split.count", 1)) > len(files) or promised != len(tensors):
        raise BuildError(
            f"{path} is one of {metadata.get('split.count')} parts and the others are not named like it: keep the "
            "names NAME-00001-of-0000N.gguf, in one directory"
        )
    return Header(tuple(files), metadata, tensors)


def shards(path: Path) -> list[Path]:
    """Every part of a sharded file, whichever one is named."""
    match = SHARD.search(path.name)
    if not match:
        return [path]
    count, stem = int(match[2]), path.name[: match.start()]
    names = [f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise BuildError(f"{path.parent} lacks {len(missing)} of {count} parts ({', '.join(missing)}): download them")
    return [path.parent / name for name in names]


def _one(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if path.stat().st_size < 24:
        raise _damaged(path)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    if mapped[:4] != MAGIC:
        raise BuildError(f"{path} is not a GGUF file (it begins with {mapped[:4]!r}): download it again")
    cursor = _Cursor(mapped)
    cursor.at = len(MAGIC)
    version = cursor.scalar("I")
    if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
        raise BuildError(f"{path} is big-endian, which cannot be read: convert it again without --bigendian")
    if version not in VERSIONS:
        raise BuildError(f"{path} is GGUF version {version}; versions {VERSIONS} can be read: convert it again")
    try:
        return _contents(path, mapped, cursor)
    except (struct.error, ValueError, KeyError, OverflowError) as error:
        raise _damaged(path) from error


def _contents(path: Path, mapped: mmap.mmap, cursor: _Cursor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    count, pairs = cursor.scalar("Q"), cursor.scalar("Q")
    metadata = {}
    for _ in range(pairs):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.scalar("I"))
    found = [(cursor.string(), cursor.dimensions(), cursor.scalar("I"), cursor.scalar("Q")) for _ in range(count)]
    alignment = int(metadata.get("general.alignment", 32))
    if alignment < 1:
        raise ValueError(f"alignment {alignment}")
    start = -(-cursor.at // alignment) * alignment
    tensors = {name: Tensor(mapped, path, start + offset, shape, kind) for name, shape, kind, offset in found}
    return metadata, tensors


class _Cursor:
    """Reads the file's values in order. Raises ``struct.error`` or ``ValueError`` when it ends too soon."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        size = self.scalar("Q")
        raw = self.data[self.at : self.at + size]
        if len(raw) != size:
            raise ValueError("the file ends inside a string")
        self.at += size
        return raw.decode("utf-8", "surrogateescape")

    def dimensions(self) -> tuple[int, ...]:
        """GGML counts columns first."""
        count = self.scalar("I")
        if count > MAX_DIMENSIONS:
            raise ValueError(f"{count} dimensions")
        return tuple(self.scalar("Q") for _ in range(count))[::-1]

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array(self.scalar("I"), self.scalar("Q"))
        return self.scalar(SCALARS[kind])

    def array(self, kind: int, count: int) -> list[Any]:
        if kind in (STRING, ARRAY):
            read: Callable[[], Any] = self.string if kind == STRING else lambda: self.value(ARRAY)
            return [read() for _ in range(count)]
        values = np.frombuffer(self.data, np.dtype("<" + SCALARS[kind]), count, self.at)
        self.at += values.nbytes
        return list(values.tolist())


def _damaged(path: Path) -> BuildError:
    return BuildError(f"{path} is truncated or damaged: download it again")
