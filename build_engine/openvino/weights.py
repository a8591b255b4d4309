"""Weights as OpenVINO constants: lossless, or INT8 or INT4 in groups of columns.

A compressed weight is the subgraph constant -> convert -> (subtract zero point) -> multiply by scale, which the CPU
plugin folds into its own kernels. Rows are quantized a slice at a time, so that the float32 copy stays small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import Type
from openvino import opset13 as op

from build_engine.checkpoint import Tensors, float32_to_bf16
from contract.errors import BuildError

PRECISIONS = ("fp32", "bf16", "int8", "int4")
SLICE_BYTES = 64 << 20  # of float32 held while quantizing
# Input columns per scale, the first that divides a row. OpenVINO's loop over one row of activations reads every scale
# again: at 192 columns it takes three quarters of the time at 32, for little accuracy (docs/decisions.md).
GROUPS = {"int8": (192, 128, 96, 64, 32, 16), "int4": (128, 64, 32, 16)}
SMALLEST = np.float16(6e-8)  # the smallest positive float16: a scale of zero would lose the row
BF16_EXPONENT = np.uint16(0x7F80)  # all ones: infinity or NaN
FLOAT16_MAX = 65504  # beyond it a scale would be infinite; a layer's weights are below 1000
LOSSLESS = {"BF16": Type.bf16, "F16": Type.f16, "F32": Type.f32}

Array = npt.NDArray[Any]


class Weights:
    """Makes weight nodes from a checkpoint. Keep it alive until the model is saved: constants share its buffers."""

    def __init__(self, checkpoint: Tensors, precision: str) -> None:
        self.checkpoint = checkpoint
        self.precision = precision
        self._buffers: list[Array] = []

    def matrix(self, names: Sequence[str], precision: str | None = None) -> Any:
        """An f32 [out, in] node: the rows of all ``names``, stacked. Scales belong to rows, so a merged
        matrix has the values of its parts. INT4 leaves vocabulary tables at 8 bits: the caller passes ``int8``."""
        precision = precision or self.precision
        quantize = {"int8": self._int8, "int4": self._int4}.get(precision)
        if quantize is None:
            return self._lossless(names)
        node = op.convert(quantize(names), "f32")
        for name in names:
            self.checkpoint.forget(name)
        return node

    def vector(self, *names: str) -> Any:
        """An f32 [1, 1, n] node, all ``names`` joined: biases and norms stay float32 at every precision."""
        parts = [self._finite(name, self.checkpoint.float32(name)) for name in names]
        return self.constant(np.concatenate(parts).reshape(1, 1, -1))

    def constant(self, array: Array, shape: tuple[int, ...] | None = None, kind: Any = None) -> Any:
        array = np.ascontiguousarray(array)
        self._buffers.append(array)
        tensor = ov.Tensor(array, True) if kind is None else ov.Tensor(array, list(shape or array.shape), kind)
        return op.constant(tensor, shared_memory=True)

    def _lossless(self, names: Sequence[str]) -> Any:
        kinds = {LOSSLESS[self.checkpoint.dtype(name)] for name in names}
        if len(kinds) > 1 or (Type.f32 in kinds and self.precision == "bf16"):
            kind = Type.bf16 if self.precision == "bf16" else Type.f32
            narrow = float32_to_bf16 if kind == Type.bf16 else np.asarray
            parts = [narrow(self._finite(name, self.checkpoint.float32(name))) for name in names]
        else:
            kind, parts = kinds.pop(), [self._finite(name, self.checkpoint.raw(name)) for name in names]
        raw = parts[0] if len(parts) == 1 else np.concatenate(parts)
        node = self.constant(raw, raw.shape, kind)
        return node if kind == Type.f32 else op.convert(node, "f32")

    def _finite(self, name: str, values: Array, largest: float = np.inf) -> Array:
        """``values`` (BF16 as bits). Raises ``BuildError`` for NaN, infinity, and what is beyond ``largest``."""
        if values.dtype == np.uint16:
            bad = bool(((values & BF16_EXPONENT) == BF16_EXPONENT).any())
        else:
            low, high = values.min(), values.max()  # NaN when any value is
            bad = not (np.isfinite(low) and np.isfinite(high) and max(-low, high) <= largest)
        if bad:
            raise BuildError(
                f"{name} holds NaN, infinity or values beyond {FLOAT16_MAX}: the checkpoint is damaged, download or "
                "export it again"
            )
        return values

    def _size(self, names: Sequence[str]) -> tuple[int, int]:
        shapes = [self.checkpoint.shape(name) for name in names]
        return sum(rows for rows, _ in shapes), shapes[0][1]

    def _slices(self, names: Sequence[str]) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        """Rows of the merged matrix, and their values."""
        first = 0
        for name in names:
            rows, columns = self.checkpoint.shape(name)
            step = max(1, SLICE_BYTES // (4 * columns))
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                values = self.checkpoint.float32(name, start, stop)
                yield slice(first + start, first + stop), self._finite(name, values, FLOAT16_MAX)
            first += rows

    def _grouped(self, names: Sequence[str], precision: str) -> tuple[int, int, int]:
        """Rows, groups in a row, columns in a group."""
        rows, columns = self._size(names)
        group = next((g for g in GROUPS[precision] if columns % g == 0), columns)
        return rows, columns // group, group

    def _int8(self, names: Sequence[str]) -> Any:
        rows, groups, group = self._grouped(names, "int8")
        values, scales = np.empty((rows, groups, group), np.int8), np.empty((rows, groups, 1), np.float16)
        for part, weight in self._slices(names):
            values[part], scales[part] = quantize_int8(weight.reshape(-1, groups, group))
        scaled = op.multiply(op.convert(self.constant(values), "f16"), self.constant(scales))
        return op.reshape(scaled, np.array([rows, groups * group], np.int64), False)

    def _int4(self, names: Sequence[str]) -> Any:
        shape = rows, groups, group = self._grouped(names, "int4")
        values, zeros = np.empty(shape, np.uint8), np.empty((rows, groups, 1), np.uint8)
        scales = np.empty((rows, groups, 1), np.float16)
        for part, weight in self._slices(names):
            values[part], zeros[part], scales[part] = quantize_unsigned(weight.reshape(-1, groups, group), 15)
        packed = self.constant(pack_nibbles(values), shape, Type.u4)
        zero = self.constant(pack_nibbles(zeros), (rows, groups, 1), Type.u4)
        centred = op.subtract(op.convert(packed, "f16"), op.convert(zero, "f16"))
        scaled = op.multiply(centred, self.constant(scales))
        return op.reshape(scaled, np.array([rows, groups * group], np.int64), False)


def quantize_int8(weight: npt.NDArray[np.float32]) -> tuple[Array, Array]:
    """Symmetric over the last axis: ``weight ≈ values * scales`` with values in -127…127."""
    scales = np.maximum((np.abs(weight).max(-1, keepdims=True) / 127.0).astype(np.float16), SMALLEST)
    values = np.clip(np.rint(weight / scales.astype(np.float32)), -127, 127).astype(np.int8)
    return values, scales


def quantize_unsigned(weight: npt.NDArray[np.float32], top: int) -> tuple[Array, Array, Array]:
    """Asymmetric over the last axis: ``weight ≈ (values - zeros) * scales``, values in 0…top. Zero stays exact."""
    low = np.minimum(weight.min(-1, keepdims=True), 0)
    high = np.maximum(weight.max(-1, keepdims=True), 0)
    scales = np.maximum(((high - low) / top).astype(np.float16), SMALLEST)
    exact = scales.astype(np.float32)
    zeros = np.clip(np.rint(-low / exact), 0, top)
    values = np.clip(np.rint(weight / exact) + zeros, 0, top).astype(np.uint8)
    return values, zeros.astype(np.uint8), scales


def pack_nibbles(values: Array) -> Array:
    """Two 4-bit values per byte, the first in the low half, as OpenVINO stores u4."""
    flat = values.reshape(-1)
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return np.ascontiguousarray(flat[0::2] | (flat[1::2] << np.uint8(4)))
