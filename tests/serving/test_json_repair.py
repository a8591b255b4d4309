"""Valid JSON passes unchanged; anything else becomes valid JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.json_repair import JsonRepair, repaired

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(
    VALUES, st.booleans(), st.sampled_from([None, 0, 2]), st.sampled_from([(", ", ": "), (",", ":"), (" , ", " :\t")])
)
def test_valid_json_passes_unchanged(value: Any, ascii_only: bool, indent: int | None, separators: Any) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=separators)
    assert repaired(text) == text


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="{}[]:,\"'\\ \n\tabn1.-eu0\u4e16", max_size=40))
def test_anything_becomes_valid(text: str) -> None:
    json.loads(repaired(text))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('{"a": 1', '{"a": 1}'), ('{"a": [1, {"b": "c', '{"a": [1, {"b": "c"}]}'),
        ("{'a': 'it\\'s'}", '{"a": "it\'s"}'),
        ('{"a": True, "b": None, "c": NaN}', '{"a": true, "b": null, "c": null}'),
        ('{"a": 1,}', '{"a": 1}'), ('[1, 2, ]', "[1, 2 ]"), ('{"a": "x\ny"}', '{"a": "x\\ny"}'),
        ('{"a" "b"}', '{"a" :"b"}'), ("{a: b}", '{"a": "b"}'), ('{"a": }', '{"a": null}'), ('{"a"}', '{"a":null}'),
        ("[1 2]", "[1 ,2]"), ("", "null"), ("007", '"007"'), ('{"a": [1}', '{"a": [1]}'),
        ('"\\q"', '"\\\\q"'), ('"\\u12"', '"\\\\u12"'),
    ],
)  # fmt: skip
def test_what_is_repaired(written: str, meant: str) -> None:
    assert repaired(written) == meant


def test_what_is_held_back_is_given_when_the_text_is_cut() -> None:
    repair = JsonRepair()
    came = '{"a": "b", "c\\u00'
    assert "".join(map(repair.feed, came)) + repair.cut() == came
