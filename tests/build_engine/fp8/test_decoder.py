"""The layers in torch give what the numpy decoder gives, which the oracle tests hold to transformers."""

from __future__ import annotations

import numpy as np
import pytest

from build_engine.checkpoint import Checkpoint
from tests.oracle import tiny
from tests.oracle.numpy_decoder import NumpyDecoder

pytestmark = pytest.mark.oracle


class Noting(NumpyDecoder):
    """Keeps the largest magnitude at the input of each linear map."""

    def __init__(self, checkpoint):
        super().__init__(checkpoint)
        self.inputs: dict[str, float] = {}

    def linear(self, x, name):
        self.inputs[name] = max(self.inputs.get(name, 0.0), float(np.abs(x).max()))
        return super().linear(x, name)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_layers_and_their_extremes_equal_the_numpy_decoder(name, tmp_path):
    import torch

    from build_engine.fp8.decoder import DecoderLayer, Extremes, Rotation, load
    from build_engine.fp8.scales import JOINED

    checkpoint = Checkpoint(tiny.write(name, tmp_path / "m"))
    device, ids = torch.device("cpu"), tiny.prompts(1)[0]
    rotation = Rotation(checkpoint.config, 128, device, torch.float32)
    x = load(checkpoint, "model.embed_tokens.weight", device, ids)
    layers = checkpoint.config["num_hidden_layers"]
    noted = []
    for number in range(layers):
        noted.append(Extremes())
        x = DecoderLayer(checkpoint, number, rotation, device, torch.float32)(x, noted[-1])

    reference = Noting(checkpoint)
    wanted = reference.logits(ids)
    x = reference.norm(x.numpy(), "model.norm.weight")
    head = reference.weights.get("lm_head.weight", reference.weights["model.embed_tokens.weight"])
    np.testing.assert_allclose(x @ head.T, wanted, atol=2e-3)
    for number, seen in enumerate(noted):
        for place, maps in JOINED.items():
            for each in maps:
                assert seen[place] == pytest.approx(reference.inputs[f"model.layers.{number}.{each}"], rel=1e-4)
