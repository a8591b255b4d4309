"""The value in a message is the one that was sent, whichever type carried it."""

from __future__ import annotations

from ctypes import c_float

import pytest

from contract import ranges


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (c_float(2.000001).value, "2.000001"), (2.000001, "2.000001"), (c_float(3.7).value, "3.7"), (5.0, "5"),
        (123456789.123456789, "123456789.12345679"), (c_float(123456789.0).value, "123456792.0"), (1e300, "1e+300"),
        (10**30, "1" + "0" * 30), (10**100, "1" + "0" * 78 + "…"),
        pytest.param(10**5000, "(int with thousands of digits)", id="huge"),
        (float("nan"), "nan"), (float("-inf"), "-inf"),
    ],
)  # fmt: skip
def test_a_number_out_of_range(value: float, shown: str) -> None:
    assert ranges.number(value, (0, 2), False) == f"{shown} is out of range; give a number between 0 and 2"
    assert ranges.numbers([1, value], (0, 2)) == f"{shown} is out of range; give numbers between 0 and 2"
    if isinstance(value, int):
        assert ranges.integer(value, (0, 2)) == f"{shown} is out of range; give an integer between 0 and 2"
