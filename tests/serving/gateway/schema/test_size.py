"""A body's structure is counted before it is parsed."""

from __future__ import annotations

import json

import pytest

from serving.gateway.schema import size
from serving.gateway.schema.errors import ApiError

COMMA = b","


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"messages":[' + COMMA.join([b"{}"] * 230_000) + b"]}", "objects and lists"),
        (b'{"logit_bias":{' + COMMA.join(b'"%d":1' % i for i in range(100_000)) + b"}}", "texts and keys"),
        (b'{"prompt":[' + COMMA.join([b"1"] * 2_000_000) + b"]}", "list elements"),
        (b'{"a":"\\\\","messages":[' + COMMA.join([b"[]"] * 20_000) + b"]}", "objects and lists"),
    ],
)
def test_too_much_structure_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(ApiError, match=words):
        size.check(body)


@pytest.mark.parametrize("text", ["x" * 100_000, '[{"' * 40_000, "\\" * 99_999, '\\"[,' * 30_000, "é{" * 20_000])
def test_punctuation_inside_a_text_does_not_count(text: str) -> None:
    size.check(json.dumps({"messages": [{"role": "user", "content": text}]}).encode())
    size.check(json.dumps({"prompt": [text, [1, 2, 3]]}, ensure_ascii=False).encode())


def test_a_vocabulary_of_token_ids_passes() -> None:
    size.check(json.dumps({"prompt": list(range(200_000))}).encode())


@pytest.mark.parametrize("tail", [b"", b"1" + b"]" * 200 + b"}"])
def test_the_field_that_is_nested_too_deeply_is_named_whether_something_closes_it_or_not(tail: bytes) -> None:
    with pytest.raises(
        ApiError, match="tools: nested too deeply: at most 100 levels of lists and objects; "
    ) as refused:
        size.check_depth(b'{"user": "[[{\\"", "a": {"b": []}, "tools": ' + b"[" * 200 + tail)
    assert refused.value.param == "tools"


def test_what_is_as_deep_as_can_be_passes() -> None:
    size.check_depth(b'{"a":' + b"[" * 100 + b"]" * 100 + b"}")
    size.check_depth(json.dumps({"a": "[" * 1000, "b": [[]] * 200, "c": "\\"}).encode())
    size.check_depth(b'{"a": "' + b"[" * 200 + b"\\")
