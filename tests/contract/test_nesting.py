"""What is nested too deep is refused before anybody walks it."""

from __future__ import annotations

import json

import pytest

from contract import nesting
from contract.nesting import MAX_DEPTH


@pytest.mark.parametrize(("opening", "inner", "closing"), [("[", "", "]"), ('{"a":', "1", "}")])
def test_the_limit_holds_for_lists_and_objects(opening: str, inner: str, closing: str) -> None:
    def text(depth: int) -> str:
        return opening * depth + inner + closing * depth

    assert nesting.loads(text(MAX_DEPTH)) == json.loads(text(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 980, 50_000):
        with pytest.raises(ValueError, match="nested too deeply: at most 100 levels"):
            nesting.loads(text(depth))


@pytest.mark.parametrize("value", [None, 1, "[" * 500, [1, {"a": [2]}], {}])
def test_what_is_flat_passes(value: object) -> None:
    assert not nesting.too_deep(value)
