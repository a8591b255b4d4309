"""Read a Hugging Face checkpoint without torch: ``config.json`` and (sharded) safetensors, one tensor at a time.

The files are memory-mapped: a tensor costs memory only while it is used, and ``forget`` releases its pages.
Format: https://github.com/huggingface/safetensors#format (8 bytes of header length, JSON header, tensor bytes).
"""

from __future__ import annotations

import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from build_engine import quantized
from build_engine.architectures import architecture_of
from contract.errors import BuildError
from contract.model_shape import ModelShape

INDEX = "model.safetensors.index.json"
STORED = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}  # numpy has no bfloat16: its bits
PAGE = mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class _Place:
    map: mmap.mmap
    offset: int  # bytes from the start of the file
    size: int  # bytes
    shape: tuple[int, ...]
    dtype: str


def read_config(directory: Path) -> dict[str, Any]:
    """``config.json`` of a checkpoint. Raises ``BuildError`` when it is not one that the graph can compute."""
    path = directory / "config.json"
    if not path.is_file():
        raise BuildError(f"{directory} has no config.json: --model must be a Hugging Face checkpoint directory")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BuildError(f"{path} is not JSON ({error}): download the checkpoint again") from error
    if not isinstance(config, dict):
        raise BuildError(f"{path} is not a model's configuration: download the checkpoint again")
    architecture_of(config, path)
    try:
        ModelShape.of(config)
    except ValueError as error:
        raise BuildError(f"{path}: {error}") from error
    if found := quantized.of_directory(directory, config):
        raise BuildError(quantized.refusal(found, directory, "openvino"))
    return dict(config)


class Tensors(Protocol):
    """What a graph is built from: ``config.json``, and tensors by their Hugging Face names."""

    config: dict[str, Any]

    def __contains__(self, name: str) -> bool: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def parameters(self) -> int: ...
    @property
    def lossless_bytes(self) -> int: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def dtype(self, name: str) -> str: ...
    def raw(self, name: str) -> npt.NDArray[Any]: ...
    def float32(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]: ...
    def forget(self, name: str) -> None: ...


class Checkpoint:
    """The tensors of a directory by name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = read_config(directory)
        self._places: dict[str, _Place] = {}
        for path in shards(directory):
            self._places.update(_header(path))

    def __contains__(self, name: str) -> bool:
        return name in self._places

    @property
    def parameters(self) -> int:
        """The number of weights in all tensors."""
        return sum(place.size // np.dtype(STORED[place.dtype]).itemsize for place in self._places.values())

    @property
    def lossless_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(place.size for place in self._places.values())

    @property
    def names(self) -> list[str]:
        return sorted(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._place(name).shape

    def dtype(self, name: str) -> str:
        """``BF16``, ``F16`` or ``F32``."""
        return self._place(name).dtype

    def raw(self, name: str) -> npt.NDArray[Any]:
        """The tensor as stored, read-only and without a copy; BF16 as uint16 bits."""
        place = self._place(name)
        kind = STORED[place.dtype]
        count = place.size // np.dtype(kind).itemsize
        return np.frombuffer(place.map, kind, count, place.offset).reshape(place.shape)

    def float32(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
        """Rows ``start:stop`` of the first axis, converted exactly."""
        rows = self.raw(name)[start:stop]
        return bf16_to_float32(rows) if self.dtype(name) == "BF16" else rows.astype(np.float32)

    def forget(self, name: str) -> None:
        """Tell the kernel that the tensor's pages will not be needed soon."""
        place = self._place(name)
        start = -(-place.offset // PAGE) * PAGE
        length = (place.offset + place.size) // PAGE * PAGE - start
        if length > 0:
            place.map.madvise(mmap.MADV_DONTNEED, start, length)

    def _place(self, name: str) -> _Place:
        try:
            return self._places[name]
        except KeyError:
            raise BuildError(f"{self.directory} has no tensor {name}: the checkpoint is incomplete") from None


def bf16_to_float32(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def float32_to_bf16(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """To the nearest BF16, as bits."""
    raw: npt.NDArray[np.uint32] = np.ascontiguousarray(array).view(np.uint32)
    half = np.uint32(0x7FFF) + ((raw >> np.uint32(16)) & np.uint32(1))  # to even on a tie
    return np.right_shift(raw + half, np.uint32(16)).astype(np.uint16)


def write_safetensors(path: Path, tensors: dict[str, tuple[str, npt.NDArray[Any]]]) -> None:
    """Write one file. ``tensors``: name -> dtype as the format spells it, and values."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in tensors.values():
            file.write(np.ascontiguousarray(array).data)


def shards(directory: Path) -> list[Path]:
    """The safetensors files that the index names. Raises ``BuildError`` when one is missing."""
    index = directory / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BuildError(f"{index} is damaged ({error}): download the checkpoint again") from error
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise BuildError(
                f"{directory} lacks {len(missing)} of {len(names)} shards ({missing[0]}, …): download it again"
            )
        return [directory / name for name in names]
    found = sorted(directory.glob("*.safetensors"))
    if not found:
        raise BuildError(f"{directory} has no *.safetensors: other weight formats cannot be read")
    return found


def _header(path: Path) -> dict[str, _Place]:
    with path.open("rb") as file:
        size = path.stat().st_size
        if size < 8:
            raise _truncated(path)
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    start = 8 + int.from_bytes(mapped[:8], "little")
    try:
        header = json.loads(mapped[8:start])
        places = {k: _entry(mapped, start, v) for k, v in header.items() if k != "__metadata__"}
    except (ValueError, KeyError, TypeError) as error:
        raise _truncated(path) from error
    for name, place in places.items():
        if place.dtype not in STORED:
            raise BuildError(f"{path}: {name} is {place.dtype}; only {', '.join(STORED)} can be read")
        if place.offset + place.size > size:
            raise _truncated(path)
    return places


def _entry(mapped: mmap.mmap, start: int, entry: dict[str, Any]) -> _Place:
    begin, end = entry["data_offsets"]
    return _Place(mapped, start + begin, end - begin, tuple(entry["shape"]), entry["dtype"])


def _truncated(path: Path) -> BuildError:
    return BuildError(f"{path} is truncated or damaged: download it again")
