"""E4M3 in numpy, from the format alone: sign, four bits of exponent (bias 7), three of mantissa, 448 the largest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

KINDS = {"F8_E4M3": np.uint8, "BF16": np.uint16, "F16": np.float16, "F32": np.float32}


def _value(code: int) -> float:
    sign, exponent, mantissa = -1 if code & 128 else 1, code >> 3 & 15, code & 7
    if code & 127 == 127:
        return float("nan")
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


VALUES = np.array([_value(code) for code in range(256)], np.float32)


def decoded(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return VALUES[codes]


def rounded(values: npt.NDArray[np.float32], scale: float) -> npt.NDArray[np.float32]:
    """What is left of ``values`` after E4M3 with ``scale``, to the nearest value."""
    grid = np.unique(VALUES[np.isfinite(VALUES)])
    wanted = np.clip(values / np.float32(scale), grid[0], grid[-1])
    above = np.clip(np.searchsorted(grid, wanted), 1, len(grid) - 1)
    low, high = grid[above - 1], grid[above]
    return np.where(wanted - low <= high - wanted, low, high).astype(np.float32) * np.float32(scale)


def read(directory: Path) -> dict[str, npt.NDArray[Any]]:
    """Every tensor of a checkpoint's files, FP8 as codes."""
    found: dict[str, npt.NDArray[Any]] = {}
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        for name, at in header.items():
            raw = data[8 + size :][slice(*at["data_offsets"])]
            found[name] = np.frombuffer(raw, KINDS[at["dtype"]]).reshape(at["shape"])
    return found
