"""What the engine's grammar must enforce: response formats, vLLM's guided fields, and tool calls. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from contract import nesting
from contract.errors import misplaced, shown_json
from contract.sampling import ANY_OBJECT
from serving import structural_tag
from serving.gateway.core.tools import CLOSE, OPEN
from serving.gateway.schema.errors import bad_request
from serving.gateway.schema.formats import ResponseFormat
from serving.gateway.schema.protocol import Common, Structured, Tool

NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}  # of a function that lists none
# llguidance's word for "enforce what you can", which other engines do not look at. Callers with
# tools often did not write the schemas, and OpenAI promises to keep a function's schema only where it is ``strict``. A
# response format's schema is kept unless the caller says that it need not be, as in vLLM.
LENIENT = {"x-guidance": {"lenient": True, "coerce_one_of": True}}
SCHEMA = ("schema", "value")
PATTERN = ("regex", "pattern", "regex_schema", "value")
GRAMMAR = ("ebnf", "grammar", "value")
# The types of response formats: their guide's type, and the names under which one server or another has the guide
# (``formats.py`` says which one). A type takes it under each of them.
TYPES = {
    "text": ("", ()), "structural_tag": ("structural_tag", ("format", "structures", "triggers")),
    "json_object": ("json_schema", SCHEMA), "json": ("json_schema", SCHEMA),
    "json_schema": ("json_schema", ("json_schema", *SCHEMA)),
    "regex": ("regex", PATTERN), "regex_schema": ("regex", PATTERN),
    "ebnf": ("ebnf_grammar", GRAMMAR), "grammar": ("ebnf_grammar", GRAMMAR),
}  # fmt: skip
Guided = tuple[str, str, str]  # guide type, guide, the request's field


def response_guide(request: Common) -> Guided:
    """The request's one grammar; empty strings for none. Raises ``ApiError`` for two. One in two fields is one: clients
    that do not know their server's age send vLLM's old name and its new one."""
    found = [*_response_format(request), *_guided_fields(request)]
    if len({(kind, guide) for kind, guide, _ in found}) > 1:
        names = " and ".join(dict.fromkeys(source for _, _, source in found))
        raise bad_request(found[1][2], f"given together with another grammar ({names}); send one")
    return found[0] if found else ("", "", "response_format")


def _response_format(request: Common) -> list[Guided]:
    wanted = getattr(request, "response_format", None)
    if wanted is None:
        return []
    _check_members(wanted)
    if wanted.type == "text":
        return []
    if wanted.type == "structural_tag":
        tag = wanted.model_dump(include={"format", "structures", "triggers"}, exclude_none=True)
        return [("structural_tag", dumped(tag, "response_format"), "response_format")]
    return [(*_valued(wanted), "response_format")]


def _valued(wanted: ResponseFormat) -> tuple[str, str]:
    """The guide of a type that has its schema, pattern or grammar as one member."""
    kind, names = TYPES[wanted.type]
    members = wanted.model_dump(exclude_none=True, by_alias=True, exclude={"type"})
    if not members:
        if wanted.type == "json_object":
            return "json_schema", ANY_OBJECT
        first, *others = sorted(names, key=lambda name: name != wanted.type)
        raise bad_request(
            f"response_format.{first}", f"missing; it is required with type {wanted.type} (or as {_or(others)})"
        )
    [(name, given)] = members.items()
    if isinstance(given, str) != (kind != "json_schema"):
        needs = "an object" if kind == "json_schema" else "a string"
        raise bad_request(f"response_format.{name}", misplaced(given, needs))
    if kind != "json_schema":
        return kind, given
    if wanted.type == "json_schema" and isinstance(given.get("schema"), dict):  # no keyword of JSON Schema
        given = (LENIENT if given.get("strict") is False else {}) | given["schema"]
    return kind, dumped(given, "response_format")


def _check_members(wanted: ResponseFormat) -> None:
    """What belongs to another type would change nothing here, and whoever sent it would not know."""
    given = wanted.model_dump(exclude_none=True, by_alias=True, exclude={"type"})
    names = TYPES[wanted.type][1]
    for name in [name for name in given if name not in names]:
        takes = f"type {wanted.type} takes {_or(names) or 'nothing beside it'}"
        types = [kind for kind, (_, members) in TYPES.items() if name in members]
        instead = f"; leave it out or send type {_or(types)}" if types else ""
        raise bad_request(f"response_format.{name[:100]}", f"{shown_json(given[name])} is wrong: {takes}{instead}")
    if len(given) > 1 and wanted.type != "structural_tag":
        first, second, *_ = given
        raise bad_request(f"response_format.{second}", f"given together with response_format.{first}; send one")


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)


def _guided_fields(request: Common) -> list[Guided]:
    spec = request.structured_outputs or Structured()
    named = (
        ("json_schema", request.guided_json, "guided_json"), ("regex", request.guided_regex, "guided_regex"),
        ("regex", _choice(request.guided_choice, "guided_choice"), "guided_choice"),
        ("ebnf_grammar", request.guided_grammar, "guided_grammar"),
        ("json_schema", spec.json_, "structured_outputs.json"), ("regex", spec.regex, "structured_outputs.regex"),
        ("regex", _choice(spec.choice, "structured_outputs.choice"), "structured_outputs.choice"),
        ("ebnf_grammar", spec.grammar, "structured_outputs.grammar"),
        ("structural_tag", spec.structural_tag, "structured_outputs.structural_tag"),
    )  # fmt: skip
    found = [(k, v if isinstance(v, str) else dumped(v, source), source) for k, v, source in named if v is not None]
    return found + ([("json_schema", ANY_OBJECT, "structured_outputs.json_object")] if spec.json_object else [])


def _choice(choices: list[str] | None, field: str) -> str | None:
    if choices is None:
        return None
    if not choices:
        raise bad_request(field, "the list is empty; give at least one choice")
    return "(" + "|".join(re.escape(choice) for choice in choices) + ")"


def dumped(value: Any, field: str = "tools") -> str:
    """JSON text. Raises ``ApiError`` naming ``field`` for what is nested beyond bounds."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:
        raise bad_request(field, f"the schema cannot be passed on ({error}); nest it less deeply") from None


def _moved(schema: Any, root: str) -> Any:
    """``schema`` with its own references (``#/$defs/…``) pointing below ``root``, where it is put now."""
    if isinstance(schema, list):
        return [_moved(part, root) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, root) for key, value in schema.items()}
    target = moved.get("$ref")
    if isinstance(target, str) and target.startswith("#"):
        moved["$ref"] = root + target[1:]
    return moved


def tool_tags(tools: list[Tool], answer: Guided, *, one: bool) -> str:
    """The structural tag of ``tool_choice: auto``: text in which each ``<tool_call>`` begins a call of ``tools``, with
    arguments by its schema. With a grammar of the ``answer``: the answer or calls, and no other text. ``one``: at most
    one call."""
    tags = [_call_tag(tool) for tool in tools]
    kind, guide, field = answer
    if not kind:
        tree = {"type": "triggered_tags", "triggers": [OPEN], "tags": tags, "stop_after_first": one}
    else:
        calls = _calls(tags, "\n", at_least_one=True, stop_after_first=one)
        tree = {"type": "or", "elements": [_format(kind, guide, field), calls]}
    return dumped({"type": "structural_tag", "format": tree}, field or "tools")


def rest_of_call(tools: list[Tool], begun: str, *, one: bool) -> str:
    """The structural tag of an answer whose first call the prompt has ``begun``: the rest of it, perhaps further calls,
    and no other text. "" where no tool's call begins like that, or the arguments have begun."""
    tags = [_call_tag(tool) for tool in tools]
    rests = [tag | {"begin": tag["begin"][len(begun) :]} for tag in tags if tag["begin"].startswith(begun)]
    if not rests:
        return ""
    further = _calls([tag | {"begin": "\n" + tag["begin"]} for tag in tags], "", at_least_one=False)
    elements = [{"type": "or", "elements": rests}, *([] if one else [further])]
    return dumped({"type": "structural_tag", "format": {"type": "sequence", "elements": elements}})


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """What the arguments of a call of ``tool`` must fit, as far as the engine can see to it unless it is strict."""
    schema = _parameters(tool)
    return schema if tool.function.strict else LENIENT | schema


def _parameters(tool: Tool) -> dict[str, Any]:
    """Arguments are an object, also where a schema leaves that open, as those of MCP servers do, or writes Gemini's
    ``OBJECT``."""
    return {**(tool.function.parameters or NO_PARAMETERS), "type": "object"}


def _call_tag(tool: Tool) -> dict[str, Any]:
    return structural_tag.tag(
        f'{OPEN}\n{{"name": "{tool.function.name}", "arguments": ',
        {"type": "json_schema", "json_schema": arguments_schema(tool)},
        "}\n" + CLOSE,
    )


def _calls(tags: list[dict[str, Any]], separator: str, **more: bool) -> dict[str, Any]:
    return {"type": "tags_with_separator", "tags": tags, "separator": separator, **more}


def _format(kind: str, guide: str, field: str) -> dict[str, Any]:
    """A guide of the request's ``field`` as a format of structural tags."""
    if kind == "json_schema":
        return {"type": "json_schema", "json_schema": _loaded(guide, field)}
    return {"type": "regex", "pattern": guide} if kind == "regex" else {"type": "grammar", "grammar": guide}


def _loaded(schema: str, field: str) -> Any:
    try:
        return nesting.loads(schema)
    except ValueError as error:
        raise bad_request(field, f"not JSON ({error}); send a JSON schema") from None


def required_calls(tools: list[Tool], *, one: bool) -> dict[str, Any]:
    """What ``tool_choice: required`` makes the answer: a list of calls of ``tools``, or of ``one`` call."""
    calls, definitions = [], {}
    for at, tool in enumerate(tools):
        arguments = _parameters(tool)
        if '"$ref"' in dumped(arguments):  # its pointers start at its own top: give it a place of its own
            root = f"#/$defs/tool{at}"
            definitions[f"tool{at}"] = _moved(arguments, root)
            arguments = {"$ref": root}
        calls.append({
            "type": "object", "properties": {"name": {"const": tool.function.name}, "arguments": arguments},
            "required": ["name", "arguments"], "additionalProperties": False,
        })  # fmt: skip
    most = {"maxItems": 1} if one else {}
    return {
        **({} if any(tool.function.strict for tool in tools) else LENIENT),
        **({"$defs": definitions} if definitions else {}),
        "type": "array",
        "minItems": 1,
        **most,
        "items": calls[0] if len(calls) == 1 else {"anyOf": calls},
    }
