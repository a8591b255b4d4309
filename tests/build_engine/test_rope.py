"""Rotary positions: what a config may say, in both of transformers' spellings, and what follows from it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from build_engine.rope import frequencies, positions_of, scaling_of, spelled_out, theta_of
from contract.errors import BuildError

YARN = {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"type": "yarn"}, r"factor of its rope_scaling \(yarn\) is None"),
        ({"type": "linear", "factor": 0}, "is 0, not a number above 0"),
        ({"type": "linear", "factor": True}, "is True"),
        ({"type": "yarn", "factor": "x"}, "is 'x'"),
        ({"type": "yarn", "factor": math.inf}, "is inf"),
        ({**YARN, "mscale": "x"}, "mscale of its rope_scaling"),
        ({"rope_type": "llama3", "factor": 8}, "low_freq_factor of its rope_scaling"),
        ({**LLAMA3, "low_freq_factor": 4}, "low_freq_factor 4 of its rope_scaling must be below high_freq_factor 4.0"),
        ({"rope_type": "dynamic", "factor": 2}, "'dynamic' is not supported: use yarn, linear, llama3 or none"),
        ({"rope_type": ["yarn"]}, "is not supported: use yarn"),
        ("yarn", "rope_scaling is 'yarn', not an object"),
        ({"full_attention": {"rope_type": "yarn"}}, "for each kind of layer"),
    ],
)
def test_a_scaling_that_cannot_be_computed_is_refused(scaling: Any, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        scaling_of({"rope_scaling": scaling})


@pytest.mark.parametrize("theta", [0, -1, 1, "big", math.nan, True])
def test_a_theta_that_makes_no_wavelengths_is_refused(theta: Any) -> None:
    with pytest.raises(BuildError, match="not a number above 1"):
        theta_of({"rope_theta": theta})


def test_both_spellings_of_transformers_give_the_same_frequencies() -> None:
    old = {"rope_theta": 5e5, "rope_scaling": LLAMA3, "max_position_embeddings": 131072}
    new = {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "max_position_embeddings": 131072}
    assert frequencies(old, 64)[0].tolist() == frequencies(new, 64)[0].tolist()
    assert spelled_out(new) == old and spelled_out(old) is old


def test_plain_positions_lose_only_their_new_spelling() -> None:
    new = {"vocab_size": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    assert spelled_out(new) == {"vocab_size": 1, "rope_theta": 1e6}


@pytest.mark.parametrize(
    ("more", "factor"),
    [
        ({}, 0.1 * math.log(40) + 1),
        ({"attention_factor": 2}, 2.0),
        ({"mscale": 0.707, "mscale_all_dim": 0.707}, 1.0),
        ({"mscale": 1.0, "mscale_all_dim": 0.5}, (0.1 * math.log(40) + 1) / (0.05 * math.log(40) + 1)),
        ({"factor": 0.5}, 1.0),
    ],
)
def test_yarns_factor_on_attention(more: dict[str, Any], factor: float) -> None:
    """https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/modeling_rope_utils.py"""
    config = {"max_position_embeddings": 4096, "rope_scaling": {**YARN, **more}}
    assert frequencies(config, 64)[1] == pytest.approx(factor)


def test_yarns_ramp_can_begin_between_two_dimensions() -> None:
    whole, between = (
        frequencies({"max_position_embeddings": 4096, "rope_scaling": {**YARN, "truncate": cut}}, 64)[0]
        for cut in (True, False)
    )
    assert (whole != between).any() and whole[0] == between[0] and whole[-1] == between[-1]


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": YARN}, 163840),  # as Qwen's model card has it
        ({"max_position_embeddings": 163840, "rope_scaling": YARN}, 163840),
        ({"max_position_embeddings": 131072, "rope_parameters": LLAMA3}, 131072),
    ],
)
def test_how_far_positions_reach(config: dict[str, Any], positions: int) -> None:
    assert positions_of(config) == positions
