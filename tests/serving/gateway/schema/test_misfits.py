"""The refusal of a text that is no Unicode, or of a number that JSON does not have, names its field."""

from __future__ import annotations

import pytest

from serving.gateway.api.http import read_json
from serving.gateway.schema.errors import ApiError


@pytest.mark.parametrize(
    ("body", "field", "problem"),
    [
        (rb'{"prompt": "a \ud83d"}', "prompt", r"'\ud83d' is half a surrogate pair; send valid Unicode"),
        (
            rb'{"model": "m", "messages": [{"content": "a"}, {"content": "\ude00b"}]}',
            "messages[1].content",
            r"'\ude00' is",
        ),
        (rb'{"stop": ["a", "\ud83d\ud83d"]}', "stop[1]", r"'\ud83d' is half"),
        (rb'{"metadata": {"\udce9": 1}}', "metadata", r"'\udce9' is half"),
        (b'{"prompt": "caf\xe9"}', "prompt", "the byte 0xe9 is not UTF-8; send text encoded as UTF-8"),
        (b'{"messages": [{"content": "\xed\xa0\x80"}]}', "messages[0].content", "the byte 0xed is not UTF-8"),
        (b'["\xe9"]', "[0]", "the byte 0xe9"),
        (b'"\xe9"', None, "the byte 0xe9"),
        (b'{"top_p": NaN}', "top_p", "NaN is no number of JSON; send a finite one, or leave the field out"),
        (b'{"stop_token_ids": [1, -Infinity]}', "stop_token_ids[1]", "-Infinity is no number of JSON"),
        (b'{"n": -1e400}', "n", "-1e400 is no number of JSON"),
        (b'{"n": %b}' % (b"7" * 5000), "n", "7" * 79 + "… is no number of JSON"),
        (b"Infinity", None, "Infinity is no number of JSON"),
    ],
)
def test_the_field_is_named(body: bytes, field: str | None, problem: str) -> None:
    with pytest.raises(ApiError) as refused:
        read_json(body)
    assert (refused.value.status, refused.value.param, refused.value.code) == (400, field, "invalid_json")
    assert refused.value.message.startswith(f"{field or 'the body'}: {problem}")


@pytest.mark.parametrize(
    "body", [b'{"prompt": "\xe9', b'{"a": ' + b"[" * 500 + b'"\xe9"' + b"]" * 500 + b"}", b"\xff{}"]
)
def test_what_else_is_wrong_is_said_as_ever(body: bytes) -> None:
    with pytest.raises(ApiError, match=r"the body is not JSON in UTF-8|nested too deeply: at most 100 levels"):
        read_json(body)
