"""A body -> a request model, or an error that names the first wrong field."""

from __future__ import annotations

import difflib
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from contract import ranges
from contract.errors import misplaced, shown_json
from contract.fields import FIELDS
from serving.gateway.schema.errors import ApiError, bad_request
from serving.gateway.schema.others import FIXED, REFUSED, WITHIN, Fixed
from serving.gateway.schema.protocol import SEEDS

Request = TypeVar("Request", bound=BaseModel)
MAX_ENTRIES = 4096  # of a list or object at the top of a body: validating collects the complaints of all of them
_LONG = ("messages", "input", "prompt", "tokens")  # bounded by ``size`` and stopped at the first wrong element


def parse(kind: type[Request], body: Any) -> Request:
    """The validated request. Raises ``ApiError`` 400 naming the first wrong field."""
    if not isinstance(body, dict):
        raise ApiError(400, f"the body is {shown_json(body)}; send a JSON object")
    for name, value in body.items():
        if isinstance(value, list | dict) and len(value) > MAX_ENTRIES and name not in _LONG:
            raise bad_request(name[:100], f"{len(value)} entries are too many; send at most {MAX_ENTRIES}")
    known, others = kind.model_fields, getattr(kind, "others", {})
    for name in [n for n in body if n not in known and not (n == "best_of" and _is_of_all(body))]:
        _other_field(name, body[name], list(known), others)
    try:
        return kind.model_validate({k: v for k, v in body.items() if k in known})
    except ValidationError as error:
        raise _first(error) from None


def _is_of_all(body: dict[str, Any]) -> bool:
    """The best n of n are all of them."""
    return _is_number(body["best_of"]) and body["best_of"] == body.get("n")


def _other_field(name: str, value: Any, known: list[str], others: dict[str, Fixed]) -> None:
    if value is None:
        return  # as if it had not been sent: clients write out every field that they know
    fixed = others.get(name) or FIXED.get(name) or REFUSED.get(name)
    if fixed is None:
        plain = re.sub("([a-z0-9])([A-Z])", r"\1_\2", name[:60]).lower()  # reasoningEffort
        near = difflib.get_close_matches(plain, [*known, *FIXED], 1)
        hint = f"; did you mean {near[0]}?" if near else "; see the field table in docs/gateway.md"
        raise bad_request(name[:100], f"no such field{hint}", "unknown_field")
    if fixed.accepts(value):
        return
    only = f"; leave it out or send {' or '.join(map(shown_json, fixed.allowed))}" if fixed.allowed else ""
    raise bad_request(name, f"{shown_json(value)} is not supported ({fixed.why}){only}", fixed.code)


_RANGES = {f.api_name: ranges.known(f.low, f.high) for f in FIELDS if f.api_name and f.low is not None}
_RANGES |= dict.fromkeys(("max_completion_tokens", "max_output_tokens"), _RANGES["max_tokens"]) | {"seed": SEEDS}
_KINDS = {"int_type": "an integer", "float_type": "a number", "string_type": "a string", "bool_type": "true or false"}
_KINDS |= dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "an object") | {"list_type": "a list"}
_IN_JSON = {"True": "true", "False": "false", "None": "null"}
_MEDIA = (
    "image_url", "input_audio", "audio_url", "video_url", "file", "input_image", "input_file",
    "image", "audio", "video", "search_result", "container_upload", "computer_screenshot",
)  # fmt: skip


def _first(error: ValidationError) -> ApiError:
    """pydantic's first error in this project's format, with a path like ``messages[0].role``."""
    complaints = error.errors(include_url=False, include_context=False)
    same = [c for c in complaints if c["loc"][:1] == complaints[0]["loc"][:1]]
    # Of a union's members the caller meant the one that matched deepest, or else the one of the value's own kind.
    first = max(same, key=lambda c: (len(c["loc"]), _is_number(c.get("input")) and c["type"].startswith("int")))
    path, value = _path(first["loc"]), first.get("input")
    if first["type"] == "missing":
        return bad_request(path, "missing; it is required")
    if first["type"] == "none_required":
        instead = "send tool_calls" if path.endswith(".function_call") else "this model reads text"
        return bad_request(path, f"{shown_json(value)} is not supported; {instead}", "unsupported")
    if path.startswith("tools[") and path.endswith(".type"):
        return _wrong_tool(path, value)
    if first["type"] == "literal_error" and re.fullmatch(r"input\[\d+\]\.type", path):
        return bad_request(
            path, f"{shown_json(value)} is not an item of this server; see docs/gateway.md", "unsupported"
        )
    within = ".".join(re.sub(r"\[\d+\]", "", path).split(".")[-2:])
    if first["type"] == "literal_error" and within in WITHIN:
        send = _expected(first["type"], first["msg"]).removeprefix("should be ")
        return bad_request(
            path, f"{shown_json(value)} is not supported ({WITHIN[within]}); leave it out or send {send}", "unsupported"
        )
    if value in _MEDIA and path.endswith(".type"):
        return bad_request(path, f"{value} is not supported; this model reads text", "unsupported")
    if first["type"] == "extra_forbidden":
        return bad_request(path, "no such field; see the field table in docs/gateway.md", "unknown_field")
    among = _RANGES.get(re.sub(r"\[\d+\]$", "", path))
    if isinstance(value, float) and value.is_integer() and first["type"].startswith("int"):
        low, high = among or SEEDS
        if low <= value <= high:  # too large for a float to say which integer is meant, or in a list or a part
            return bad_request(path, f"{value!r} is wrong: write it as an integer, without a point or an exponent")
        return bad_request(path, f"{shown_json(value)} is out of range; give an integer between {low} and {high}")
    told = [c for c in same if len(c["loc"]) == len(first["loc"]) and _path(c["loc"]) == path]
    forms = [*dict.fromkeys(_expected(c["type"], c["msg"], among) for c in told)]
    problem = ", or ".join(forms[:1] + [form.removeprefix("should be ") for form in forms[1:]])
    if all(c["type"] in _KINDS for c in told):
        of = " of objects with role and content" if path == "messages" else ""
        return bad_request(path, misplaced(value, problem.removeprefix("should be ") + of))
    return bad_request(path, f"{shown_json(value)} is wrong: {problem}")


def _expected(kind: str, message: str, among: ranges.Range | None = None) -> str:
    if kind in _KINDS:
        within = f" between {among[0]} and {among[1]}" if among and kind in ("int_type", "float_type") else ""
        return f"should be {_KINDS[kind]}{within}"
    problem = message.removeprefix("Input ").partition(" after validation")[0]
    if kind == "literal_error":
        problem = re.sub(r"\b(?:True|False|None)\b", lambda word: _IN_JSON[word[0]], problem)
    return problem[:1].lower() + problem[1:]


def _wrong_tool(path: str, kind: Any) -> ApiError:
    if kind == "function":  # Anthropic's endpoint
        return bad_request(path, "'function' is wrong: a tool here is {name, description, input_schema}, without type")
    if kind == "custom":
        why = "its input is free text, and calls here are JSON; send a function with one string parameter"
        return bad_request(path, f"'custom' is not supported: {why}", "unsupported")
    why = "it would have to run here, and this server runs no tools; turn it off in the client"
    hint = ' (Codex: web_search = "disabled" in config.toml)' if kind == "web_search" else ""
    return bad_request(path, f"{shown_json(kind)} is not supported: {why}{hint}, or send functions", "unsupported")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _path(loc: tuple[int | str, ...]) -> str:
    """Only the caller's own names: pydantic inserts its own name for each union member."""
    out = ""
    for at, part in enumerate(loc):
        if isinstance(part, int):
            out += f"[{part}]"
        elif at == 0 or (part.isidentifier() and part not in ("str", "int", "bool") and not part[0].isupper()):
            out += f".{part}" if out else part
    return out
