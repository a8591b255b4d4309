"""Read a Hugging Face checkpoint without torch: ``config.json`` and (sharded) safetensors, one tensor at a time.

The files are memory-mapped: a tensor costs memory only while it is used, and ``forget`` releases its pages.
Format: https://github.com/huggingface/safetensors#format (8 bytes of header length, JSON header, tensor bytes).
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from build_engine import quantized
from build_engine.architectures import architecture_of, layout
from build_engine.rope import scaling_of, theta_of
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
    except (ValueError, RecursionError) as error:
        raise BuildError(f"{path} is not JSON ({error}): download the checkpoint again") from error
    if not isinstance(config, dict):
        raise BuildError(f"{path} is not a model's configuration: download the checkpoint again")
    architecture_of(config, path)
    try:
        ModelShape.of(config)
    except ValueError as error:
        raise BuildError(f"{path}: {error}") from error
    scaling_of(config)
    theta_of(config)
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
        for path in weight_files(directory):
            found = _header(path)
            _require_readable(path, found)
            if twice := self._places.keys() & found.keys():
                raise BuildError(
                    f"{directory}: {path.name} holds {min(twice)} again: remove files that are not this checkpoint's"
                )
            self._places.update(found)

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
    with path.open("wb") as file:
        file.write(safetensors_head((name, dtype, v.shape, v.nbytes) for name, (dtype, v) in tensors.items()))
        for _, array in tensors.values():
            file.write(np.ascontiguousarray(array).data)


def safetensors_head(tensors: Iterable[tuple[str, str, tuple[int, ...], int]]) -> bytes:
    """What stands before the values of ``tensors``: name, dtype, shape and bytes of each, in the order of the file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint, found as transformers does: one whole file, or those of the index.

    Raises ``BuildError`` when one is missing, or holds other tensors than the index says."""
    whole, index = directory / "model.safetensors", directory / INDEX
    if whole.is_file():
        return [whole]
    if index.is_file():
        return _indexed(directory, index)
    found = sorted(directory.glob("*.safetensors"))
    if not found and (directory / "engine.json").is_file():
        raise BuildError(f"{directory} is an engine, not a checkpoint: serve it with make serve ENGINE={directory}")
    if not found:
        raise BuildError(f"{directory} has no *.safetensors: other weight formats cannot be read")
    return found


def read_index(index: Path) -> dict[str, str]:
    """``weight_map`` of an index: tensor -> file. Raises ``BuildError`` when it is damaged."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{index} is damaged ({error}): download the checkpoint again") from error
    plain = isinstance(found, dict) and all(isinstance(name, str) and "/" not in name for name in found.values())
    if not plain or not found:
        raise BuildError(f"{index} is damaged (weight_map names no files beside it): download the checkpoint again")
    return dict(found)


def _indexed(directory: Path, index: Path) -> list[Path]:
    places = read_index(index)
    names = sorted(set(places.values()))
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise BuildError(
            f"{directory} lacks {len(missing)} of {len(names)} shards ({missing[0]}, …): download it again"
        )
    held = {name: _header(directory / name) for name in names}
    for tensor, name in places.items():
        if tensor not in held[name]:
            raise BuildError(f"{directory / name} lacks {tensor}, which {INDEX} places there: download it again")
    return [directory / name for name in names]


def require_layout(tensors: Tensors, where: object) -> None:
    """Raises ``BuildError`` unless ``tensors`` have the names and shapes that their config promises, and no others."""
    shape, kind = ModelShape.of(tensors.config), architecture_of(tensors.config, "config.json")
    wanted = dict(layout(shape, kind.biases(tensors.config), kind.qk_norm))
    for name, size in wanted.items():
        if name not in tensors:
            tied = ", and tie_word_embeddings is not true" if name.startswith("lm_head") else ""
            raise BuildError(f"{where} has no tensor {name}{tied}: the checkpoint is incomplete")
        if tensors.shape(name) != size:
            raise BuildError(
                f"{where}: {name} has the shape {list(tensors.shape(name))}, by its configuration it must be "
                f"{list(size)}: configuration and weights belong to different models"
            )
    ignored = {"lm_head.weight"} if shape.tied else set()
    extra = [name for name in tensors.names if name not in wanted and name not in ignored]
    extra = [
        name for name in extra if not name.endswith(".rotary_emb.inv_freq")
    ]  # older exports; it follows from theta
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        name = tensors.config["architectures"][0]
        raise BuildError(
            f"{where} holds {extra[0]}{more}, which no {name} of this configuration has: configuration and weights "
            "belong to different models"
        )


def require_whole(directory: Path) -> None:
    """Raises ``BuildError`` when a weight file is missing or shorter than its header says, whatever its types are."""
    for path in weight_files(directory):
        _header(path)


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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _truncated(path) from error
    if any(place.offset < start or place.size < 0 or place.offset + place.size > size for place in places.values()):
        raise _truncated(path)
    return places


def _require_readable(path: Path, places: Mapping[str, _Place]) -> None:
    for name, place in places.items():
        if place.dtype not in STORED:
            raise BuildError(f"{path}: {name} is {place.dtype}; only {', '.join(STORED)} can be read")
        if math.prod(place.shape) * np.dtype(STORED[place.dtype]).itemsize != place.size:
            raise _truncated(path)


def _entry(mapped: mmap.mmap, start: int, entry: dict[str, Any]) -> _Place:
    begin, end = map(int, entry["data_offsets"])
    return _Place(mapped, start + begin, end - begin, tuple(map(int, entry["shape"])), str(entry["dtype"]))


def _truncated(path: Path) -> BuildError:
    return BuildError(f"{path} is truncated or damaged: download it again")
