"""A decoder of ``build_engine.architectures`` as an OpenVINO graph, in the form that PagedAttention's pass expects.

The stateful form: inputs ``input_ids`` [batch, tokens], ``attention_mask``, ``position_ids`` and ``beam_idx``; output
``logits`` f32 [batch, tokens, vocab]. Parameters carry friendly names: the transformation looks them up by those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
from openvino import Type
from openvino import opset13 as op
from openvino.op.util import Variable, VariableInfo

from build_engine.architectures import architecture_of
from build_engine.openvino.weights import Weights
from build_engine.rope import frequencies
from contract.model_shape import ModelShape

END = 2**63 - 1
LOWEST = float(np.finfo(np.float32).min)


def ints(*values: int) -> Any:
    return op.constant(np.array(values, np.int64))


def scalar(value: float, rank: int = 0) -> Any:
    return op.constant(np.full((1,) * rank, value, np.float32))


def integer(value: int) -> Any:
    return op.constant(np.int64(value))


class DecoderGraph:
    """Builds the model once; ``on_layer(done, total)`` reports progress."""

    def __init__(self, weights: Weights, on_layer: Callable[[int, int], None] = lambda done, total: None) -> None:
        self._weights = weights
        self._config = weights.checkpoint.config
        self._shape = ModelShape.of(self._config)
        architecture = architecture_of(self._config, "config.json")
        self._biases = architecture.biases(self._config)
        self._qk_norm = architecture.qk_norm
        self._on_layer = on_layer
        self._sinks: list[Any] = []

    def build(self) -> ov.Model:
        ids, mask, positions = (
            _parameter(n, [-1, -1], Type.i64) for n in ("input_ids", "attention_mask", "position_ids")
        )
        self._beam = _parameter("beam_idx", [-1], Type.i32)
        # 4-bit rows of the vocabulary tables cost too much accuracy: those stay at 8 bits
        table = "int8" if self._weights.precision == "int4" else None
        embedding = self._weights.matrix(["model.embed_tokens.weight"], table)
        self._batch = op.gather(op.shape_of(ids), ints(0), integer(0))
        self._cos, self._sin = self._rotation(positions)
        self._mask = _causal_mask(ids, mask)
        x = op.gather(embedding, op.convert(ids, "i32"), op.constant(np.int32(0)))
        for layer in range(self._shape.layers):
            x = self._layer(x, layer)
            self._on_layer(layer + 1, self._shape.layers)
        x = self._norm(x, "model.norm.weight")
        tied = self._shape.tied or "lm_head.weight" not in self._weights.checkpoint
        head = embedding if tied else self._weights.matrix(["lm_head.weight"], table)
        result = op.result(op.matmul(x, head, False, True))
        result.output(0).get_tensor().set_names({"logits"})
        return ov.Model([result], self._sinks, [ids, mask, positions, self._beam], self._config["architectures"][0])

    def _layer(self, x: Any, layer: int) -> Any:
        prefix = f"model.layers.{layer}."
        x = op.add(x, self._attention(self._norm(x, prefix + "input_layernorm.weight"), layer, prefix + "self_attn."))
        h = self._norm(x, prefix + "post_attention_layernorm.weight")
        gate_up = self._linear(h, prefix + "mlp.gate_proj", prefix + "mlp.up_proj")
        gate, up = op.split(gate_up, integer(-1), 2).outputs()
        return op.add(x, self._linear(op.multiply(op.swish(gate), up), prefix + "mlp.down_proj"))

    def _attention(self, h: Any, layer: int, prefix: str) -> Any:
        s = self._shape
        joint = self._linear(h, *(prefix + f"{part}_proj" for part in "qkv"))
        widths = ints(*(count * s.head_dim for count in (s.heads + s.kv_heads, s.kv_heads)))
        qk, v = op.variadic_split(joint, integer(-1), widths).outputs()
        q, k = self._queries_and_keys(self._heads(qk, s.heads + s.kv_heads), prefix)
        v = self._heads(v, s.kv_heads)
        keys, values = self._cache(k, layer, "key"), self._cache(v, layer, "value")
        mixed = op.scaled_dot_product_attention(q, keys, values, self._mask, scalar(s.head_dim**-0.5))
        joined = op.reshape(op.transpose(mixed, ints(0, 2, 1, 3)), ints(0, 0, s.heads * s.head_dim), True)
        return self._linear(joined, prefix + "o_proj")

    def _queries_and_keys(self, heads: Any, prefix: str) -> tuple[Any, Any]:
        """Rotated together, unless each has a norm of its own: every node costs OpenVINO some time in a step."""
        counts = ints(self._shape.heads, self._shape.kv_heads)
        q, k = op.variadic_split(heads if self._qk_norm else self._rotate(heads), integer(1), counts).outputs()
        if not self._qk_norm:
            return q, k
        q, k = (self._norm(x, f"{prefix}{name}_norm.weight") for x, name in ((q, "q"), (k, "k")))
        return self._rotate(q), self._rotate(k)

    def _linear(self, x: Any, *names: str) -> Any:
        """One multiplication for all of ``names``, which share their input; either all or none of them have a bias."""
        y = op.matmul(x, self._weights.matrix([name + ".weight" for name in names]), False, True)
        has_bias = names[0].rpartition(".")[2] in self._biases
        return op.add(y, self._weights.vector(*(name + ".bias" for name in names))) if has_bias else y

    def _norm(self, x: Any, name: str) -> Any:
        mean = op.reduce_mean(op.power(x, scalar(2, 3)), ints(-1), True)
        scale = op.divide(scalar(1, 3), op.sqrt(op.add(mean, scalar(self._shape.norm_eps, 3))))
        return op.multiply(self._weights.vector(name), op.multiply(x, scale))

    def _heads(self, x: Any, count: int) -> Any:
        split = op.reshape(x, ints(0, 0, count, self._shape.head_dim), True)
        return op.transpose(split, ints(0, 2, 1, 3))

    def _rotation(self, positions: Any) -> tuple[Any, Any]:
        radians, factor = frequencies(self._config, self._shape.head_dim)
        column = self._weights.constant(radians.reshape(1, -1, 1))
        angles = op.matmul(column, op.convert(op.unsqueeze(positions, ints(1)), "f32"), False, False)
        angles = op.transpose(angles, ints(0, 2, 1))
        both = op.concat([angles, angles], -1)
        pair = [op.cos(both), op.sin(both)]
        if factor != 1.0:
            pair = [op.multiply(x, scalar(factor, 3)) for x in pair]
        return op.unsqueeze(pair[0], ints(1)), op.unsqueeze(pair[1], ints(1))

    def _rotate(self, x: Any) -> Any:
        half = self._shape.head_dim // 2
        first = op.slice(x, ints(0), ints(half), ints(1), ints(3))
        second = op.slice(x, ints(half), ints(END), ints(1), ints(3))
        turned = op.concat([op.multiply(second, scalar(-1)), first], -1)
        return op.add(op.multiply(x, self._cos), op.multiply(turned, self._sin))

    def _cache(self, x: Any, layer: int, kind: str) -> Any:
        """``x`` appended to the layer's state, each key-value head repeated for its group of query heads."""
        s = self._shape
        info = VariableInfo()
        info.data_shape, info.data_type = ov.PartialShape([-1, s.kv_heads, -1, s.head_dim]), Type.f32
        info.variable_id = f"past_key_values.{layer}.{kind}present.{layer}.{kind}"
        variable = Variable(info)
        empty = op.broadcast(scalar(0), op.concat([self._batch, ints(s.kv_heads), ints(0), ints(s.head_dim)], 0))
        past = op.gather(op.read_value(empty, variable), self._beam, integer(0))
        whole = op.concat([past, x], 2)
        self._sinks.append(op.assign(whole, variable))
        return whole if s.heads == s.kv_heads else self._repeat(whole)

    def _repeat(self, x: Any) -> Any:
        s = self._shape
        sizes = op.shape_of(x)
        b, h, t, d = (op.gather(sizes, ints(axis), integer(0)) for axis in range(4))
        target = op.concat([b, h, ints(s.heads // s.kv_heads), t, d], 0)
        wide = op.broadcast(op.unsqueeze(x, ints(2)), target, "BIDIRECTIONAL")
        return op.reshape(wide, ints(0, s.heads, -1, s.head_dim), True)


def _parameter(name: str, shape: list[int], kind: Any) -> Any:
    node = op.parameter(shape, kind, name)
    node.output(0).get_tensor().set_names({name})
    node.set_friendly_name(name)
    return node


def _causal_mask(ids: Any, attention_mask: Any) -> Any:
    """f32 [1, 1, queries, keys]. Paged attention drops it: it masks by position itself."""
    queries = op.gather(op.shape_of(ids), integer(1), integer(0))
    keys = op.gather(op.shape_of(attention_mask), integer(1), integer(0))
    key_at = op.unsqueeze(op.range(integer(0), keys, integer(1), "i64"), integer(0))
    query_at = op.unsqueeze(op.range(op.subtract(keys, queries), keys, integer(1), "i64"), integer(1))
    return op.unsqueeze(op.select(op.less_equal(key_at, query_at), scalar(0), scalar(LOWEST)), ints(0, 1))
