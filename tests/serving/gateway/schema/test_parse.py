"""What a wrong field is told: in JSON's words, not in those of Python or of the library that checks."""

from __future__ import annotations

from typing import Any

import pytest

from serving.gateway.schema.errors import ApiError
from serving.gateway.schema.parse import parse
from serving.gateway.schema.protocol import ChatRequest

BODY = {"messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("stream_options", 1, "stream_options: 1 is wrong: should be an object"),
        ("response_format", "x", "response_format: 'x' is wrong: should be an object"),
        ("messages", [None], "messages[0]: null is wrong: should be an object"),
        ("metadata", [True, None], "metadata: [true, null] is wrong: should be an object"),
        ("logit_bias", "é", "logit_bias: 'é' is wrong: should be an object"),
        ("n", {"a": None}, 'n: {"a": null} is wrong: should be a valid integer'),
        ("stream_options", {"a": 1}, "stream_options.a: no such field; see the field table in docs/gateway.md"),
        (
            "best_of",
            {"é": False},
            'best_of: {"é": false} is not supported (request n and choose yourself); leave it out',
        ),
    ],
)
def test_a_wrong_field_is_told_in_the_callers_words(field: str, value: Any, said: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(ChatRequest, BODY | {field: value})
    assert refused.value.message.startswith(said)
