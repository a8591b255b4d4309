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
