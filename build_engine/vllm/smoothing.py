"""SmoothQuant (https://arxiv.org/abs/2211.10438): move outliers of the activations into the weights before INT8.

INT8 activations have one scale per token, so a channel that is a hundred times larger than the others leaves them few
levels. A channel is divided where it is made, in the norm or in ``up_proj``, and the maps that read it are multiplied.
The model computes what it did before: a factor is chosen so that BF16 stores what is divided without an error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from build_engine.checkpoint import STORED, Checkpoint, Tensors, bf16_to_float32, float32_to_bf16
from build_engine.fp8.scales import JOINED
from build_engine.fp8.walk import Walk

log = logging.getLogger(__name__)

STRENGTH = 0.65  # of 0.35 to 1 the best on SmolLM2 (docs/decisions.md)
# place of ``Observer`` -> what makes its channels. Not ``o``: query heads share the channels of ``v_proj``.
SOURCES = {"qkv": "input_layernorm", "gate_up": "post_attention_layernorm", "down": "mlp.up_proj"}
Factors = npt.NDArray[np.float32]


class Smoothed:
    """``checkpoint`` with the columns of some tensors multiplied and the rows of others divided."""

    def __init__(self, checkpoint: Tensors, columns: Mapping[str, Factors], rows: Mapping[str, Factors]) -> None:
        self.config = checkpoint.config
        self._checkpoint, self._columns, self._rows = checkpoint, columns, rows

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint

    @property
    def names(self) -> list[str]:
        return self._checkpoint.names

    @property
    def parameters(self) -> int:
        return self._checkpoint.parameters

    @property
    def lossless_bytes(self) -> int:
        return self._checkpoint.lossless_bytes

    def shape(self, name: str) -> tuple[int, ...]:
        return self._checkpoint.shape(name)

    def dtype(self, name: str) -> str:
        return self._checkpoint.dtype(name)

    def raw(self, name: str) -> npt.NDArray[Any]:
        raw = self._checkpoint.raw(name)
        if name not in self._columns and name not in self._rows:
            return raw
        return _stored(self.float32(name), self.dtype(name))

    def float32(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
        values = self._checkpoint.float32(name, start, stop)
        if (rows := self._rows.get(name)) is not None:
            values = (values.T / rows[start:stop]).T
        if (columns := self._columns.get(name)) is not None:
            values = values * columns
        return values

    def forget(self, name: str) -> None:
        self._checkpoint.forget(name)


class ChannelExtremes:
    """The largest magnitude of each channel that ``SOURCES`` can divide."""

    def __init__(self) -> None:
        self.seen: dict[str, torch.Tensor] = {}

    def note(self, place: str, values: torch.Tensor) -> None:
        if place in SOURCES:
            largest = values.abs().amax(0)
            known = self.seen.get(place)
            self.seen[place] = largest if known is None else torch.maximum(known, largest)


def smoothed(checkpoint: Checkpoint, prompts: Sequence[Sequence[int]]) -> Smoothed:
    """``checkpoint`` with the factors that ``prompts`` (token ids) call for. Takes as long as FP8's calibration."""
    columns: dict[str, Factors] = {}
    rows: dict[str, Factors] = {}
    began, layers = time.monotonic(), int(checkpoint.config["num_hidden_layers"])
    with torch.inference_mode():
        walk = Walk(checkpoint, prompts)
        for number in range(layers):
            seen = ChannelExtremes()
            layer = walk.layer(number, seen)
            for place, source in SOURCES.items():
                maps = [f"{name}.weight" for name in JOINED[place]]
                largest = torch.stack([layer.weights[name].float().abs().amax(0) for name in maps]).amax(0)
                prefix = f"model.layers.{number}."
                wanted = factors(seen.seen[place].float(), largest).cpu().numpy()
                found = storable(checkpoint, f"{prefix}{source}.weight", wanted)
                columns |= {prefix + name: found for name in maps}
                rows |= {f"{prefix}{source}.{kind}": found for kind in ("weight", "bias")}
            log.info("int8: smoothing, layer %d of %d, %.0f s", number + 1, layers, time.monotonic() - began)
    return Smoothed(checkpoint, columns, rows)


def factors(activations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """One for each channel, from the largest magnitudes; 1 where a channel is always zero."""
    exponents = STRENGTH * activations.log2() - (1 - STRENGTH) * weights.log2()
    finite = exponents.isfinite()
    middle = exponents[finite].mean() if finite.any() else exponents.new_zeros(())
    return torch.where(finite, exponents - middle, 0.0).exp2()


def storable(tensors: Tensors, name: str, wanted: Factors) -> Factors:
    """The factors near ``wanted`` by which ``name`` can be divided and stored exactly. Rows of a matrix, which may have
    a bias too, get the nearest powers of two."""
    if len(tensors.shape(name)) > 1:
        powers: Factors = np.exp2(np.rint(np.log2(wanted)))
        return powers
    values = tensors.float32(name)
    kept = _float32(_stored(values / wanted, tensors.dtype(name)))
    return np.divide(values, kept, out=np.ones_like(values), where=kept != 0)


def _stored(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    return float32_to_bf16(values) if dtype == "BF16" else values.astype(STORED[dtype])


def _float32(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return bf16_to_float32(stored) if stored.dtype == np.uint16 else stored.astype(np.float32)
