"""Codes are the nearest of E4M3's 253 values, and nothing becomes NaN."""

from __future__ import annotations

import numpy as np
import pytest

from tests.build_engine.fp8 import e4m3

pytestmark = pytest.mark.oracle


def test_codes_are_the_nearest_and_beyond_the_largest_stays_finite():
    import torch

    from build_engine.fp8.scales import scale_of, to_codes

    values = np.random.default_rng(1).normal(0, 3, (64, 96)).astype(np.float32)
    values[0, :4] = 40, -50, 0, 1e-6
    scale = scale_of(30.0)  # two values lie beyond
    codes = to_codes(torch.from_numpy(values), scale).view(torch.uint8).numpy()
    found = e4m3.decoded(codes) * np.float32(scale)
    np.testing.assert_allclose(np.abs(found - values), np.abs(e4m3.rounded(values, scale) - values), atol=1e-6)
    assert found[0, 0] == pytest.approx(30.0) and found[0, 1] == pytest.approx(-30.0)


def test_joined_maps_get_the_scale_of_the_larger_and_zeros_get_one():
    import torch

    from build_engine.fp8.scales import joint_scale

    assert joint_scale([torch.ones(2, 2), torch.full((3, 2), -4.48)]) == pytest.approx(0.01)
    assert joint_scale([torch.zeros(2, 2)]) == 1.0
