"""The verdict of `make bench-isolation`: against the same engine without an attack."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.bench.isolation import broken, growth


def row(attack: str, gap: int, small: int, failures: int = 0, engine: str = "simulated") -> dict[str, Any]:
    return {"engine": engine, "attack": attack, "gap_ms": gap, "small_ms": small, "failures": failures}


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [((270, 530, 0), []), ((271, 30, 0), ["a"]), ((20, 531, 0), ["a"]), ((20, 30, 1), ["a"])],
)
def test_a_broken_promise_is_named(seen: tuple[int, int, int], verdict: list[str]) -> None:
    rows = [row("none", 20, 30), row("a", *seen), row("none", 900, 900, engine="cpu"), row("b", 900, 900, engine="cpu")]
    assert broken(rows) == [f"simulated/{name}" for name in verdict]


def test_growth_is_that_of_the_process_that_grew_most() -> None:
    assert growth({"a 1": 10.0, "b 2": 20.0}, {"a 1": 15.0, "b 2": 18.0, "new 3": 500.0}) == 5.0
