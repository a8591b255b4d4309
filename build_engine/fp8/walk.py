"""Calibration prompts through a model, one layer at a time. Only one layer's weights and the activations are held."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from build_engine.checkpoint import Tensors
from build_engine.fp8.decoder import DecoderLayer, Observer, Rotation, load
from contract.errors import BuildError

EMBEDDING = "model.embed_tokens.weight"


def device_and_type() -> tuple[torch.device, torch.dtype]:
    """BF16 on a GPU; FP32 on a CPU, where it is the faster one without AMX."""
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.bfloat16
    return torch.device("cpu"), torch.float32


class Walk:
    """``activations``, [tokens, hidden] for each prompt of token ids, before the next layer."""

    def __init__(self, tensors: Tensors, prompts: Sequence[Sequence[int]]) -> None:
        self._tensors = tensors
        self.device, self.dtype = device_and_type()
        vocabulary = tensors.shape(EMBEDDING)[0]
        if (highest := max(map(max, prompts))) >= vocabulary:
            raise BuildError(
                f"calibration: token {highest} is beyond the vocabulary of {vocabulary}: another tokenizer"
            )
        self._rotation = Rotation(tensors.config, max(map(len, prompts)), self.device, self.dtype)
        self.activations = [load(tensors, EMBEDDING, self.device, ids).to(self.dtype) for ids in prompts]

    def layer(self, number: int, seen: Observer) -> DecoderLayer:
        """Run layer ``number``, which must be the next one, and return it. ``seen`` notes its activations."""
        layer = DecoderLayer(self._tensors, number, self._rotation, self.device, self.dtype)
        self.activations = [layer(x, seen) for x in self.activations]
        for name in layer.weights:
            self._tensors.forget(f"model.layers.{number}.{name}")
        return layer
