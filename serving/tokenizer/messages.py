"""Brings OpenAI messages into the form that a chat template expects."""

from __future__ import annotations

from typing import Any

from contract import nesting
from contract.errors import InvalidRequest, shown, shown_json
from serving.json_repair import repaired

ROLES = ("system", "user", "assistant", "tool")
PARTED = "\n"  # between the text parts of a message, as in vLLM and trtllm-serve: the same request is the same prompt


def json_list(name: str, text: str) -> list[Any]:
    try:
        value = nesting.loads(text)
    except ValueError as error:
        raise InvalidRequest(name, f"not JSON ({error}); send a JSON list") from None
    if not isinstance(value, list):
        raise InvalidRequest(name, f"{shown(text)} is not a list; send a JSON list")
    return value


def message(index: int, raw: Any) -> dict[str, Any]:
    """One OpenAI message as chat templates want it: content is a string, tool-call arguments an object."""
    where = f"messages[{index}]"
    if not isinstance(raw, dict):
        raise InvalidRequest("messages", f"{where} is {shown_json(raw)}; send an object with role and content")
    role = raw.get("role")
    role = "system" if role == "developer" else role
    if role not in ROLES:
        raise InvalidRequest("messages", f"{where} has {_what(raw, 'role')}; use one of {', '.join(ROLES)}")
    calls = raw.get("tool_calls")
    content = _content(where, raw, optional=role in ("assistant", "tool"))
    clean = {**raw, "role": role, "content": content}
    if calls:
        clean["tool_calls"] = (
            [_call(where, call) for call in calls] if isinstance(calls, list) else _bad_call(where, calls)
        )
    return clean


def _content(where: str, raw: dict[str, Any], optional: bool) -> str:
    content = raw.get("content")
    if content is None and optional:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return PARTED.join(part["text"] for part in content)
    problem = f"{where} has {_what(raw, 'content')}; send a string (it may be empty) or a list of text parts"
    raise InvalidRequest("messages", problem)


def _what(raw: dict[str, Any], key: str) -> str:
    return f"{key} {shown_json(raw[key])}" if key in raw else f"no {key}"


def _call(where: str, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return _bad_call(where, call)
    return {**call, "function": {**function, "arguments": _arguments(function.get("arguments"))}}


def _arguments(given: Any) -> Any:
    """A call's arguments as a value. A conversation repeats what a model wrote, and an answer that was cut off must not
    make every later turn an error: broken JSON is mended, and what cannot be mended or is nested too deeply stays text.
    """
    if not isinstance(given, str):
        return {} if given is None else given
    text = given.strip()
    try:
        value = nesting.loads(text or "{}")
    except ValueError:
        value = _mended(text)
    return {} if value is None else value


def _mended(text: str) -> Any:
    try:
        return nesting.loads(repaired(text)) if text[0] in "{[" else text
    except (ValueError, RecursionError):
        return text


def _bad_call(where: str, value: Any) -> dict[str, Any]:
    raise InvalidRequest(
        "messages",
        f"{where} has tool_calls {shown_json(value)}; send a list of function calls with name and JSON arguments",
    )
