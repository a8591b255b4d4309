"""A decoder (Qwen2, Llama, Qwen3) in plain numpy, from the architecture alone: the reference that needs no torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from build_engine.checkpoint import Checkpoint
from build_engine.rope import frequencies

F32 = npt.NDArray[np.float32]


class NumpyDecoder:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config = checkpoint.config
        self.weights = {name: checkpoint.float32(name) for name in checkpoint.names}
        self.heads = self.config["num_attention_heads"]
        self.kv_heads = self.config["num_key_value_heads"]
        self.head_dim = self.config.get("head_dim") or self.config["hidden_size"] // self.heads
        self.radians, self.factor = frequencies(self.config, self.head_dim)

    def logits(self, ids: list[int]) -> F32:
        """[tokens, vocab]."""
        w = self.weights
        x = w["model.embed_tokens.weight"][ids]
        for layer in range(self.config["num_hidden_layers"]):
            p = f"model.layers.{layer}."
            x = x + self.attention(self.norm(x, p + "input_layernorm.weight"), p + "self_attn.")
            h = self.norm(x, p + "post_attention_layernorm.weight")
            gate, up = self.linear(h, p + "mlp.gate_proj"), self.linear(h, p + "mlp.up_proj")
            x = x + self.linear(gate / (1 + np.exp(-gate)) * up, p + "mlp.down_proj")
        x = self.norm(x, "model.norm.weight")
        return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T

    def linear(self, x: F32, name: str) -> F32:
        return x @ self.weights[name + ".weight"].T + self.weights.get(name + ".bias", np.float32(0))

    def norm(self, x: F32, name: str) -> F32:
        scale = np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return x / scale * self.weights[name]

    def attention(self, h: F32, p: str) -> F32:
        tokens = len(h)
        q, k, v = (self.linear(h, f"{p}{n}_proj").reshape(tokens, -1, self.head_dim) for n in "qkv")
        if p + "q_norm.weight" in self.weights:
            q, k = self.norm(q, p + "q_norm.weight"), self.norm(k, p + "k_norm.weight")
        q, k = self.rotate(q), self.rotate(k)
        k = np.repeat(k, self.heads // self.kv_heads, 1)
        v = np.repeat(v, self.heads // self.kv_heads, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.head_dim)
        scores = np.where(np.tril(np.ones((tokens, tokens), bool)), scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), v)
        return self.linear(mixed.reshape(tokens, -1), p + "o_proj")

    def rotate(self, x: F32) -> F32:
        angles = np.arange(len(x))[:, None] * self.radians
        cos = np.cos(angles)[:, None] * self.factor
        sin = np.sin(angles)[:, None] * self.factor
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(np.float32)

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        ids = list(prompt)
        for _ in range(count):
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids[len(prompt) :]
