"""A guide that its type has no use for is refused by name, and so is a type without the guide that it needs."""

from __future__ import annotations

from typing import get_args

import pytest

from contract import guides
from contract.errors import InvalidRequest
from contract.sampling import GuideType


@pytest.mark.parametrize("kind", get_args(GuideType))
def test_each_type_with_and_without_a_guide(kind: str) -> None:
    good, bad = ("", '{"type":"object"}') if kind == "json" else ("{}", "")
    guides.check(kind, good)
    with pytest.raises(InvalidRequest) as refused:
        guides.check(kind, bad)
    assert refused.value.field == "guided_decoding_guide" and kind in str(refused.value)


def test_what_an_unused_guide_belongs_to() -> None:
    sentence = (
        """guided_decoding_guide: '{"type":"object"}' has no effect with guided_decoding_guide_type = json, which """
        "is any JSON object; send guided_decoding_guide_type = json_schema, or leave the guide out"
    )
    with pytest.raises(InvalidRequest) as refused:
        guides.check("json", '{"type":"object"}')
    assert str(refused.value) == sentence


def test_no_type() -> None:
    guides.check("", "")
    with pytest.raises(InvalidRequest, match="guided_decoding_guide_type: missing beside guided_decoding_guide"):
        guides.check("", "a+")
