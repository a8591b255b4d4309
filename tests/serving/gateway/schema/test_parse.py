"""What a wrong field is told: in JSON's words, not in those of Python or of the library that checks."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from serving.gateway.schema.errors import ApiError
from serving.gateway.schema.messages_protocol import MessagesRequest
from serving.gateway.schema.others import FIXED, REFUSED, Fixed
from serving.gateway.schema.parse import parse
from serving.gateway.schema.protocol import ChatRequest, CompletionRequest, Shared
from serving.gateway.schema.responses_protocol import ResponsesRequest

BODY = {"messages": [{"role": "user", "content": "x"}]}
BODIES: dict[type[Shared], dict[str, Any]] = {
    ChatRequest: BODY, CompletionRequest: {"prompt": "x"}, ResponsesRequest: {"input": "x"}
}  # fmt: skip
UNHONOURED = [
    pytest.param(kind, name, fixed, id=f"{kind.__name__}-{name}")
    for kind in BODIES
    for name, fixed in (REFUSED | FIXED | kind.others).items()
    if name not in kind.model_fields
]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("stream_options", 1, "stream_options: 1 is wrong: should be an object"),
        ("response_format", "x", "response_format: 'x' is wrong: should be an object"),
        ("messages", [None], "messages[0]: null is wrong: should be an object"),
        ("metadata", [True, None], "metadata: [true, null] is wrong: should be an object"),
        ("truncation_side", "both", "truncation_side: 'both' is wrong: should be 'left' or 'right'"),
        (
            "thinking_token_budget",
            100,
            "thinking_token_budget: 100 is not supported (Qwen2.5 has no separate reasoning)",
        ),
        ("max_tokens", "5", "max_tokens: '5' is wrong: should be an integer between 0 and 2147483647, not a string"),
        ("max_tokens", 1.5, "max_tokens: 1.5 is wrong: should be an integer between 0 and 2147483647"),
        ("messages", "x", "messages: 'x' is wrong: should be a list of objects with role and content, not a string"),
        ("temperature", [], "temperature: [] is wrong: should be a number between 0 and 2, not a list"),
        ("stop_token_ids", [True], "stop_token_ids[0]: true is wrong: should be an integer between 0 and 2147483647, "),
        ("stream", 1, "stream: 1 is wrong: should be true or false, not a number"),
        ("user", {}, "user: {} is wrong: should be a string, not an object"),
        ("logit_bias", "é", "logit_bias: 'é' is wrong: should be an object"),
        ("n", {"a": None}, 'n: {"a": null} is wrong: should be an integer between 1 and 16'),
        ("tool_choice", "w", "tool_choice: 'w' is wrong: should be 'none', 'auto' or 'required', or an object"),
        ("tool_choice", {"type": "w"}, "tool_choice.type: 'w' is wrong: should be 'function', or 'allowed_tools'"),
        ("stop", 5, "stop: 5 is wrong: should be a string, or a list, not a number"),
        ("stream_options", {"a": 1}, "stream_options.a: no such field; see the field table in docs/gateway.md"),
        (
            "best_of",
            {"é": False},
            'best_of: {"é": false} is not supported (request n and choose yourself; the value of n is accepted)',
        ),
    ],
)
def test_a_wrong_field_is_told_in_the_callers_words(field: str, value: Any, said: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(ChatRequest, BODY | {field: value})
    assert refused.value.message.startswith(said)


@pytest.mark.parametrize(
    "more",
    [
        {"enable_thinking": False},  # DashScope's
        {"thinking": {"type": "disabled"}},
        {"reasoning": {"enabled": False}},  # OpenRouter's
        {"repetition_context_size": None, "documents": [], "web_search_options": None, "prediction": False},
    ],
)
def test_what_changes_nothing_is_accepted_under_any_name(more: dict[str, Any]) -> None:
    parse(ChatRequest, BODY | more)


@pytest.mark.parametrize(("kind", "name", "fixed"), UNHONOURED)
def test_every_field_without_effect_passes_at_what_changes_nothing_only(
    kind: type[Shared], name: str, fixed: Fixed
) -> None:
    asks = name in REFUSED and REFUSED[name].asks
    empty: tuple[Any, ...] = (False,) if asks else (False, {}, [], "")
    for harmless in (None, *(fixed.allowed or empty)):
        parse(kind, BODIES[kind] | {name: harmless})
    for asked in ("something", 7, [1], {"a": 1}, *(({},) if asks else ())):
        with pytest.raises(ApiError) as refused:
            parse(kind, BODIES[kind] | {name: asked})
        assert (refused.value.param, refused.value.status) == (name, 400)
        assert refused.value.code == "unsupported" and "is not supported" in refused.value.message


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"enable_thinking": True}, "enable_thinking: true is not supported (Qwen2.5 has no separate reasoning)"),
        ({"thinking": {"type": "enabled"}}, 'thinking: {"type": "enabled"} is not supported'),
        (
            {"messages": [{"role": "user", "content": [{"type": "video", "text": "x"}]}]},
            "messages[0].content[0].type: video is not supported; this model reads text",
        ),
        ({"web_search_options": {}}, "web_search_options: {} is not supported"),  # asks for a search
        ({"audio": {}}, "audio: {} is not supported"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "f"}}]},
            "tools[0].type: 'custom' is not supported: its input is",
        ),
        ({"stop_token_ids": [1e20]}, "stop_token_ids[0]: 1e+20 is out of range; give an integer between 0 and 21"),
        ({"stop": [1.0]}, "stop[0]: 1 is wrong: should be a string, not a number"),
        (
            {"repetition_detection": {"min_count": 2.0}},
            "repetition_detection.min_count: 2.0 is wrong: write it as an int",
        ),
    ],
)
def test_what_asks_for_more_is_refused_by_name(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(ChatRequest, BODY | more)
    assert refused.value.message.startswith(said)


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        (
            ResponsesRequest,
            {"reasoning": {"effort": "low"}},
            "reasoning.effort: 'low' is not supported (Qwen2.5 has no",
        ),
        (
            ResponsesRequest,
            {"text": {"verbosity": "low"}},
            "text.verbosity: 'low' is not supported (say it in a message)",
        ),
        (
            MessagesRequest,
            {"thinking": {"type": "enabled"}},
            "thinking.type: 'enabled' is not supported (Qwen2.5 has no",
        ),
        (
            MessagesRequest,
            {"output_config": {"effort": "low"}},
            "output_config.effort: 'low' is not supported (Qwen2.5",
        ),
    ],
)
def test_a_field_within_is_refused_as_one_at_the_top(kind: type[BaseModel], body: dict[str, Any], said: str) -> None:
    needed = (
        {"input": "x"}
        if kind is ResponsesRequest
        else {"max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    )
    with pytest.raises(ApiError) as caught:
        parse(kind, needed | body)
    fields = caught.value.fields()
    assert fields["message"].startswith(said) and "; leave it out or send '" in fields["message"]
    assert fields["code"] == "unsupported"
