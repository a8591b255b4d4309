"""A decoder in plain torch, one layer at a time: all that calibration needs of a model.

``DecoderLayer`` computes a layer of ``build_engine.architectures`` and notes the largest magnitude at each place that
will be quantized. Only one layer's weights are loaded at a time, so calibrating a 7B model takes 2 GB plus its
activations. The results equal those of transformers (tests/build_engine/fp8/test_decoder.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from build_engine.architectures import Architecture, architecture_of
from build_engine.checkpoint import Tensors
from build_engine.rope import frequencies
from contract.model_shape import ModelShape

# Where magnitudes are noted: the inputs of the linear maps, and what goes into the KV cache beside the queries, which
# FP8 attention quantizes with the scale of the keys.
PLACES = ("qkv", "o", "gate_up", "down", "query", "key", "value")


class Observer(Protocol):
    """Is shown the activations at each of ``PLACES``: [tokens, channels], and [heads, tokens, head_dim] of the last
    three."""

    def note(self, place: str, values: torch.Tensor) -> None: ...


@dataclass(slots=True)
class Extremes:
    """The largest magnitude seen at each place."""

    _seen: dict[str, torch.Tensor] = field(default_factory=dict)

    def note(self, place: str, values: torch.Tensor) -> None:
        largest = values.detach().abs().amax()
        known = self._seen.get(place)
        self._seen[place] = largest if known is None else torch.maximum(known, largest)

    def __getitem__(self, place: str) -> float:
        return float(self._seen[place])


def load(tensors: Tensors, name: str, device: torch.device, rows: Sequence[int] | None = None) -> torch.Tensor:
    """A tensor of the checkpoint, or some of its rows, on ``device`` and in the type in which it is stored."""
    raw = tensors.raw(name)
    copied = np.array(raw if rows is None else raw[rows])  # the checkpoint is mapped read-only
    if tensors.dtype(name) == "BF16":
        return torch.from_numpy(copied.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(copied).to(device)


class DecoderLayer:
    """One layer's weights, as stored, and its computation in ``dtype``."""

    def __init__(
        self, tensors: Tensors, number: int, rotation: Rotation, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._shape = ModelShape.of(tensors.config)
        self._architecture: Architecture = architecture_of(tensors.config, "config.json")
        self._rotation, self._dtype = rotation, dtype
        prefix = f"model.layers.{number}."
        names = [name for name in tensors.names if name.startswith(prefix)]
        self.weights = {name.removeprefix(prefix): load(tensors, name, device) for name in names}
        self._ready = {name: tensor.to(dtype) for name, tensor in self.weights.items()}

    def __call__(self, x: torch.Tensor, seen: Observer) -> torch.Tensor:
        """``x`` [tokens, hidden] of one text from its first token on, to the same after this layer."""
        h = self._norm(x, "input_layernorm")
        seen.note("qkv", h)
        x = x + self._attention(h, seen)
        h = self._norm(x, "post_attention_layernorm")
        seen.note("gate_up", h)
        h = silu(self._linear(h, "mlp.gate_proj")) * self._linear(h, "mlp.up_proj")
        seen.note("down", h)
        return x + self._linear(h, "mlp.down_proj")

    def _attention(self, h: torch.Tensor, seen: Observer) -> torch.Tensor:
        s = self._shape
        q, k, v = (
            self._linear(h, f"self_attn.{part}_proj").view(len(h), heads, s.head_dim).transpose(0, 1)
            for part, heads in (("q", s.heads), ("k", s.kv_heads), ("v", s.kv_heads))
        )
        if self._architecture.qk_norm:
            q, k = self._norm(q, "self_attn.q_norm"), self._norm(k, "self_attn.k_norm")
        q, k = self._rotation.turn(q), self._rotation.turn(k)
        for place, values in (("query", q), ("key", k), ("value", v)):
            seen.note(place, values)
        k, v = (part.repeat_interleave(s.heads // s.kv_heads, 0) for part in (k, v))
        mixed = scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
        joined = mixed.transpose(0, 1).reshape(len(h), s.heads * s.head_dim)
        seen.note("o", joined)
        return self._linear(joined, "self_attn.o_proj")

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return linear(x, self._ready[f"{name}.weight"], self._ready.get(f"{name}.bias"))

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return rms_norm(x, self._ready[f"{name}.weight"], self._shape.norm_eps)


class Rotation:
    """Rotary positions 0 to ``length`` - 1."""

    def __init__(self, config: Mapping[str, Any], length: int, device: torch.device, dtype: torch.dtype) -> None:
        radians, factor = frequencies(dict(config), ModelShape.of(dict(config)).head_dim)
        angles = torch.arange(length, dtype=torch.float32)[:, None] * torch.from_numpy(radians)
        both = torch.cat([angles, angles], -1)
        self._cos, self._sin = ((both.cos() * factor).to(device, dtype), (both.sin() * factor).to(device, dtype))

    def turn(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` [heads, tokens, head_dim]."""
        tokens = x.shape[1]
        first, second = x.chunk(2, -1)
        return x * self._cos[:tokens] + torch.cat([-second, first], -1) * self._sin[:tokens]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(x.dtype)
