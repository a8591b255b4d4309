"""Schemas of forced tool calls, compiled by the CPU engine's own grammar library."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from client.types import Options
from contract.fields import BY_NAME
from contract.sampling import Guide
from serving import structural_tag
from serving.gateway.core import translate
from serving.gateway.core.guides import LENIENT, dumped, required_calls
from serving.gateway.schema.errors import ApiError
from serving.gateway.schema.protocol import ChatRequest
from serving.runtimes.openvino.guides import grammar_of, tag_grammar
from serving.runtimes.openvino.tags import quoted
from tests.byte_tokenizer import byte_tokenizer


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def nested(kind: str) -> dict[str, Any]:
    """As pydantic writes a model within a model; two tools may use the same name for different things."""
    point = {"type": "object", "properties": {"x": {"type": kind}}, "required": ["x"]}
    own = {"type": "object", "properties": {"p": {"$ref": "#/$defs/P"}, "more": {"$ref": "#"}}, "required": ["p"]}
    return own | {"$defs": {"P": point}}


def test_references_of_each_tool_stay_its_own() -> None:
    tools = [tool("f", nested("integer")), tool("g", nested("string")), tool("h", {"type": "object"})]
    request = ChatRequest.model_validate({"messages": [{"role": "user", "content": "x"}], "tools": tools})
    schema = required_calls(request.tools or [], one=False)
    text = dumped(schema)
    assert grammar_of(Guide("json_schema", text))
    assert schema["$defs"]["tool0"]["properties"]["p"] == {"$ref": "#/$defs/tool0/$defs/P"}
    assert schema["$defs"]["tool1"]["properties"]["more"] == {"$ref": "#/$defs/tool1"}
    assert schema["items"]["anyOf"][2]["properties"]["arguments"] == {"type": "object"}
    assert json.loads(text)["$defs"]["tool1"]["$defs"]["P"]["properties"]["x"] == {"type": "string"}


def test_json_object_is_an_object() -> None:
    """Any JSON value would do for the engines' own kind; who asks for an object reads its keys."""
    wanted = {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_object"}}
    options = translate.chat(ChatRequest.model_validate(wanted)).options
    assert (options.guide_type, json.loads(options.guide)) == ("json_schema", {"type": "object"})


@pytest.mark.parametrize("name", ["schema", "value"])
def test_a_schema_beside_json_object_is_kept(name: str) -> None:
    """llama.cpp's notation, and what Hugging Face's client makes of every ``json_schema``."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wanted = {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_object", name: schema}}
    options = translate.chat(ChatRequest.model_validate(wanted)).options
    assert (options.guide_type, json.loads(options.guide)) == ("json_schema", schema)


@pytest.mark.parametrize(
    ("format_", "kind", "guide"),
    [
        ({"type": "json", "schema": {"type": "object"}}, "json_schema", '{"type":"object"}'),
        ({"type": "json", "value": {"type": "object"}}, "json_schema", '{"type":"object"}'),
        ({"type": "regex", "regex": "(Paris|London)"}, "regex", "(Paris|London)"),
        ({"type": "regex", "value": "(Paris|London)"}, "regex", "(Paris|London)"),
        ({"type": "regex", "pattern": "(Paris|London)"}, "regex", "(Paris|London)"),
        ({"type": "regex_schema", "regex_schema": "(Paris|London)"}, "regex", "(Paris|London)"),
        ({"type": "ebnf", "ebnf": 'root ::= "a"'}, "ebnf_grammar", 'root ::= "a"'),
        ({"type": "ebnf", "value": 'root ::= "a"'}, "ebnf_grammar", 'root ::= "a"'),
        ({"type": "grammar", "grammar": 'root ::= "a"'}, "ebnf_grammar", 'root ::= "a"'),
        ({"type": "json_schema", "schema": {"const": None}}, "json_schema", '{"const":null}'),
        ({"type": "json_schema", "value": {"name": "a", "schema": {"const": None}}}, "json_schema", '{"const":null}'),
    ],
)
def test_the_formats_of_other_servers_are_the_same_grammars(format_: dict[str, Any], kind: str, guide: str) -> None:
    wanted = {"messages": [{"role": "user", "content": "x"}], "response_format": format_}
    options = translate.chat(ChatRequest.model_validate(wanted)).options
    assert (options.guide_type, options.guide) == (kind, guide)


@pytest.mark.parametrize(
    ("format_", "field", "words"),
    [
        ({"type": "json"}, "schema", "missing; it is required with type json (or as value)"),
        (
            {"type": "regex"},
            "regex",
            "missing; it is required with type regex (or as pattern or regex_schema or value)",
        ),
        ({"type": "grammar"}, "grammar", "missing; it is required with type grammar (or as ebnf or value)"),
        (
            {"type": "json_schema"},
            "json_schema",
            "missing; it is required with type json_schema (or as schema or value)",
        ),
        ({"type": "regex", "regex": "a", "value": "a"}, "value", "given together with response_format.regex; send one"),
        ({"type": "regex", "value": {}}, "value", "{} is wrong: should be a string, not an object"),
        ({"type": "json_object", "value": "a"}, "value", "'a' is wrong: should be an object, not a string"),
        (
            {"type": "ebnf", "regex": "a"},
            "regex",
            "'a' is wrong: type ebnf takes ebnf or grammar or value; leave it out or send type regex or regex_schema",
        ),
        (
            {"type": "ebnf", "guided_grammar": True},
            "guided_grammar",
            "true is wrong: type ebnf takes ebnf or grammar or value",
        ),
        (
            {"type": "text", "pattern": "a"},
            "pattern",
            "'a' is wrong: type text takes nothing beside it; leave it out or send type regex or regex_schema",
        ),
    ],
    ids=str,
)
def test_a_format_without_its_member_or_with_anothers_is_named(format_: dict[str, Any], field: str, words: str) -> None:
    wanted = {"messages": [{"role": "user", "content": "x"}], "response_format": format_}
    with pytest.raises(ApiError) as refused:
        translate.chat(ChatRequest.model_validate(wanted))
    assert (
        refused.value.message == f"response_format.{field}: {words}"
        and refused.value.param == f"response_format.{field}"
    )


@pytest.mark.parametrize(
    ("old", "new", "kind", "guide"),
    [("guided_grammar", "grammar", "ebnf_grammar", 'start: "a"'), ("guided_json", "json", "json_schema", "{}")],
)
def test_one_grammar_under_vllms_old_name_and_its_new_one_is_one(old: str, new: str, kind: str, guide: str) -> None:
    """guidance's ``VLLMModel``."""
    both = {old: guide, "structured_outputs": {new: guide}}
    options = translate.chat(
        ChatRequest.model_validate({"messages": [{"role": "user", "content": "x"}], **both})
    ).options
    assert (options.guide_type, options.guide) == (kind, guide)


def auto(**more: Any) -> Options:
    tools = [tool("f", {"type": "object"}), {"type": "function", "function": {"name": "now"}}]
    body = {"messages": [{"role": "user", "content": "x"}], "tools": tools, **more}
    return translate.chat(ChatRequest.model_validate(body)).options


def test_auto_is_text_with_calls_where_the_engine_can() -> None:
    options = auto()
    tree = json.loads(options.guide)["format"]
    assert (options.guide_type, options.guide_optional) == ("structural_tag", True)
    assert (tree["type"], tree["triggers"], tree["stop_after_first"]) == ("triggered_tags", ["<tool_call>"], False)
    first, second = tree["tags"]
    assert (first["begin"], first["end"]) == ('<tool_call>\n{"name": "f", "arguments": ', "}\n</tool_call>")
    assert first["content"] == {"type": "json_schema", "json_schema": {"type": "object"} | LENIENT}
    assert second["content"]["json_schema"]["additionalProperties"] is False, "a function that lists no parameters"
    assert json.loads(auto(parallel_tool_calls=False).guide)["format"]["stop_after_first"] is True


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"response_format": {"type": "json_object"}}, {"type": "json_schema", "json_schema": {"type": "object"}}),
        ({"guided_json": '{"enum": [1]}'}, {"type": "json_schema", "json_schema": {"enum": [1]}}),
        ({"guided_choice": ["a", "b"]}, {"type": "regex", "pattern": "(a|b)"}),
        ({"guided_grammar": 'root ::= "a"'}, {"type": "grammar", "grammar": 'root ::= "a"'}),
    ],
)
def test_a_grammar_and_tools_are_one_or_the_other(asked: dict[str, Any], expected: dict[str, Any]) -> None:
    options = auto(**asked)
    tree = json.loads(options.guide)["format"]
    assert (options.guide_type, options.guide_optional, tree["type"]) == ("structural_tag", False, "or")
    assert tree["elements"][0] == expected and tree["elements"][1]["type"] == "tags_with_separator"
    assert tree["elements"][1]["at_least_one"] is True


def begun(text: str, **more: Any) -> Options:
    said = [{"role": "user", "content": "x"}, {"role": "assistant", "content": text}]
    return auto(messages=said, continue_final_message=True, **more)


@pytest.mark.parametrize(
    ("text", "rests"),
    [
        ("Let me see. <tool_call>", ['\n{"name": "f", "arguments": ', '\n{"name": "now", "arguments": ']),
        ('<tool_call>\n{"name": "n', ['ow", "arguments": ']),
        ('<tool_call>\n{"name": "f", "arguments": ', [""]),
    ],
)
def test_a_call_that_the_prompt_has_begun_goes_on(text: str, rests: list[str]) -> None:
    options = begun(text)
    first, further = json.loads(options.guide)["format"]["elements"]
    assert [tag["begin"] for tag in first["elements"]] == rests and not further["at_least_one"]
    assert tag_grammar(structural_tag.parsed(options.guide), quoted)
    (alone,) = json.loads(begun(text, parallel_tool_calls=False).guide)["format"]["elements"]
    assert alone == first


@pytest.mark.parametrize("text", ["So", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', "<tool_call> x"])
def test_what_the_prompt_has_not_begun_is_guided_as_usual(text: str) -> None:
    assert begun(text).guide == auto().guide


TAG = {"format": {"type": "tag", "begin": "<a>", "content": {"type": "json_schema", "json_schema": {}}, "end": "</a>"}}
OLDER = {"structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}], "triggers": ["<a>"]}


@pytest.mark.parametrize(
    "asked",
    [
        {"response_format": {"type": "structural_tag", **TAG}},
        {"response_format": {"type": "structural_tag", **OLDER}},
        {"structured_outputs": {"structural_tag": json.dumps(TAG)}},
    ],
)
@pytest.mark.parametrize("tools", [[], [tool("f", {"type": "object"})]])
def test_a_callers_own_structural_tag_stays(asked: dict[str, Any], tools: list[dict[str, Any]]) -> None:
    options = auto(tools=tools, **asked)
    assert (options.guide_type, options.guide_optional) == ("structural_tag", False)
    assert json.loads(options.guide) in (TAG, OLDER)


def test_a_schema_that_is_no_json_is_named() -> None:
    with pytest.raises(ApiError, match="guided_json: not JSON"):
        auto(guided_json="{")


def test_schemas_too_large_for_a_guide_are_left_out_under_auto() -> None:
    """128 tools of a usual size fit."""
    usual = {"type": "object", "properties": {f"p{n}": {"type": "string", "description": "x" * 100} for n in range(12)}}
    fits = auto(tools=[tool(f"tool{n}", usual) for n in range(128)])
    assert fits.guide and len(fits.guide) < (BY_NAME["guided_decoding_guide"].longest or 0)
    large = auto(tools=[tool("f", {"type": "object", "description": "x" * 300_000})])
    assert (large.guide_type, large.guide) == ("", "") and large.tools
    assert auto(ignore_eos=True).guide == "", "it goes on until max_tokens"


@pytest.mark.parametrize("strict", [None, False, True])
def test_what_is_not_strict_is_enforced_as_far_as_the_engine_can(strict: bool | None) -> None:
    schema = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
    named = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": strict}}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": strict}}
    guides = [
        auto(tools=[named], tool_choice={"type": "function", "function": {"name": "f"}}),
        auto(tools=[named], tool_choice="required"),
        auto(tools=[], response_format=wanted),
    ]
    lenient = [json.loads(options.guide).get("x-guidance") == LENIENT["x-guidance"] for options in guides]
    assert lenient == [strict is not True, strict is not True, strict is False]


def test_forced_calls_stay_calls_whatever_is_wrong_with_a_tools_schema() -> None:
    """A schema of which nothing can be read is refused; the answer is never some other object."""
    for odd in ({"type": "STRING"}, {"properties": {"a": {"pattern": "(?=a)"}}}):
        options = auto(tools=[tool("f", odd)], tool_choice="required")
        assert '"minItems":1' in grammar_of(Guide("json_schema", options.guide)).replace(" ", "")
    options = auto(tools=[tool("f", {"properties": {"a": {"minLength": "x"}}})], tool_choice="required")
    with pytest.raises(ValueError, match="minLength"):
        grammar_of(Guide("json_schema", options.guide))


PROPERTIES = {"properties": {"a": {"type": "integer"}}}
OPEN: list[dict[str, Any]] = [  # schemas that other values than objects fit
    PROPERTIES, {"description": "d"}, {"$ref": "#/$defs/p", "$defs": {"p": PROPERTIES}}, {"type": ["object", "null"]},
    {"type": "OBJECT"}, {"anyOf": [PROPERTIES, {"type": "null"}]}, {"oneOf": [PROPERTIES]}, {"required": ["a"]},
    {"type": "array", "items": {"type": "integer"}}, {"type": "objekt"}, {"type": "string"},
]  # fmt: skip


@pytest.mark.parametrize("schema", OPEN, ids=str)
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}], ids=["any", "named"])
def test_arguments_are_an_object_whatever_the_schema_leaves_open(schema: dict[str, Any], choice: object) -> None:
    """Tools of MCP servers often name no type; a client that got a list could not call them."""
    options = auto(tools=[tool("f", schema)], tool_choice=choice)
    tokenizer = LLTokenizer(byte_tokenizer(special=["<end>"]).to_str(), n_vocab=257, eos_token=[256])
    before = '[{"name":"f","arguments":' if choice == "required" else ""
    for begun, fits in (("{", True), ("[", False), ("n", False), ('"', False), ("1", False), ("true", False)):
        matcher = LLMatcher(tokenizer, grammar_of(Guide("json_schema", options.guide)), log_level=0)
        tokens = tokenizer.tokenize_bytes((before + begun).encode())
        assert (matcher.try_consume_tokens(tokens) == len(tokens)) == fits, begun
