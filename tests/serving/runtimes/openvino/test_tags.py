"""Structural tags with llguidance: free text without masks, calls that are always whole, on vocabularies with and
without a token for ``<tool_call>``."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from serving import structural_tag
from serving.gateway.core.guides import tool_tags
from serving.gateway.core.tools import CallArguments, CallStart, Content, ToolParser
from serving.gateway.schema.protocol import Tool
from tests.serving.runtimes.openvino.rig import Rig

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 5}}, "required": ["city"]}
TOOLS = [
    Tool.model_validate({"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}),
    Tool.model_validate({"type": "function", "function": {"name": "time"}}),
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


@pytest.fixture(scope="module", params=[False, True], ids=["text", "special"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return Rig(tmp_path_factory.mktemp("tags"), request.param)


AUTO = tool_tags(TOOLS, ("", "", ""), one=False)


def test_free_text_has_no_mask_and_calls_are_the_tools(rig: Rig) -> None:
    state = rig.start(AUTO)
    assert rig.takes(state, "Let me see: 1 < 2, <b>bold</b> and \x00 é") == 0
    assert rig.takes(state, CALL) > 10
    assert rig.takes(state, "\nand\n") == 0 and not state.finished
    assert rig.takes(state, CALL[: CALL.index("weather")]) > 0
    assert rig.refuses(state, "x") and rig.refuses(state, "}") and not rig.refuses(state, "t")
    mask = state.allowed()
    assert mask is not None and not mask[rig.end], "an answer cannot end within a call"


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"type": "string", "pattern": "(?=a)b"},
        {"$ref": "https://example.com/schema"},
    ],
)
def test_a_schema_of_one_tool_that_cannot_be_enforced_costs_the_others_nothing(rig: Rig, odd: dict[str, Any]) -> None:
    """Tools come from servers whose schemas the caller did not write."""
    parameters = {"type": "object", "properties": {"odd": odd}}
    other = Tool.model_validate({"type": "function", "function": {"name": "other", "parameters": parameters}})
    state = rig.start(tool_tags([*TOOLS, other], ("", "", ""), one=False))
    assert rig.takes(state, CALL) > 10
    assert rig.takes(state, '\n<tool_call>\n{"name": "other", "arguments": {') > 5
    assert not rig.refuses(state, '"odd"') and rig.refuses(state, "1")


def test_a_replayed_state_is_where_the_first_one_was(rig: Rig) -> None:
    """An answer that broke off: its tokens are accepted without asking for masks, in text, in a tag, between tags."""
    ids = rig.ids("Yes <b> " + CALL + "\nand " + CALL[:50])
    first = rig.start(AUTO)
    for cut, token in enumerate(ids):
        replayed = rig.start(AUTO)
        for done in ids[:cut]:
            replayed.accept(done)
        masks = first.allowed(), replayed.allowed()
        assert [m is None for m in masks] in ([True] * 2, [False] * 2) and (
            masks[0] is None or np.array_equal(*masks)
        ), cut
        first.accept(token)


def test_a_function_without_parameters_gets_an_empty_object(rig: Rig) -> None:
    state = rig.start(AUTO)
    rig.takes(state, '<tool_call>\n{"name": "time", "arguments": {')
    assert rig.refuses(state, '"') and not rig.refuses(state, "}")


def test_one_call_ends_the_answer(rig: Rig) -> None:
    state = rig.start(tool_tags(TOOLS, ("", "", ""), one=True))
    rig.takes(state, "Yes. " + CALL)
    assert state.finished


def test_a_token_may_not_complete_the_trigger_and_go_on_otherwise(rig: Rig) -> None:
    """``>{`` would begin a call outside its grammar; ``>`` and a line break may."""
    state = rig.start(AUTO)
    assert rig.takes(state, "<tool_call") == 0
    mask = state.allowed()
    assert mask is not None
    vocab = rig.tokenizer.get_vocab()
    assert not mask[vocab[">{"]] and mask[vocab[">"]] and mask[vocab[">Ċ"]] and mask[vocab["a"]]
    state.accept(vocab[">Ċ"])
    assert rig.takes(state, CALL[len("<tool_call>\n") :]) > 10


def test_the_schema_or_calls(rig: Rig) -> None:
    answer = ("json_schema", json.dumps({"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}), "f")
    guide = tool_tags(TOOLS, answer, one=False)
    state = rig.start(guide)
    assert rig.refuses(state, "Hello") and not rig.refuses(state, "{") and not rig.refuses(state, "<tool_call>")
    rig.takes(state, '{"a":1}')
    assert state.finished
    state = rig.start(guide)
    rig.takes(state, CALL + "\n" + CALL)
    mask = state.allowed()
    assert mask is not None and mask[rig.end] and rig.refuses(state, "x")


@pytest.mark.parametrize(("kind", "guide", "text"), [
    ("regex", "(yes|no)/?", "yes/"), ("ebnf_grammar", 'root ::= "yes" | "no"', "no"),
])  # fmt: skip
def test_other_grammars_or_calls(rig: Rig, kind: str, guide: str, text: str) -> None:
    state = rig.start(tool_tags(TOOLS, (kind, guide, "f"), one=True))
    rig.takes(state, text)
    assert state.finished or state.allowed()[rig.end]
    assert rig.refuses(rig.start(tool_tags(TOOLS, (kind, guide, "f"), one=True)), "maybe")


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"type": "any_text"}, "'any_text' is not among const_string"),
        ({"type": "triggered_tags", "triggers": ["<a>"], "tags": [structural_tag.tag("<b>", {}, "")]}, "<b>"),
        ({"type": "triggered_tags", "triggers": ["<a>"], "tags": [], "at_least_one": True}, "at_least_one"),
        ({"type": "tag", "begin": "a", "end": "b"}, "a tag lacks a part"),
        ({"type": "regex", "pattern": "[a-"}, "is not a valid structural_tag"),
    ],
)
def test_what_is_not_served_is_told(rig: Rig, tree: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rig.start(structural_tag.dumped(tree))


def test_an_optional_tag_goes_on_without_masks_where_the_grammar_gives_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    required, optional = rig.start(AUTO), rig.start(AUTO, optional=True)
    for state in (required, optional):
        rig.takes(state, '<tool_call>\n{"')
    monkeypatch.setattr("serving.runtimes.openvino.guides.MASK_SECONDS", -1.0)
    with pytest.raises(ValueError, match="too long"):
        required.allowed()
    assert optional.allowed() is None
    rig.takes(optional, "anything")


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_model_writes_its_calls_are_whole(rig: Rig, seed: int) -> None:
    """A model that throws dice, drawn to the trigger: what the parser makes of it are calls of the tools, by schema."""
    rng, state = random.Random(seed), rig.start(AUTO)
    tempting = rig.ids("<tool_call>")
    ids: list[int] = []
    while len(ids) < 400 and not state.finished:
        mask = state.allowed()
        if mask is None or (mask.sum() > 1 and rng.random() < 0.3):
            wanted = (
                [tempting[0], rng.randrange(rig.size)] if not _begun(rig, ids, tempting) else _next(rig, ids, tempting)
            )
            token = rng.choice(wanted)
            if mask is not None and not mask[token]:
                continue
        else:
            token = int(rng.choice(np.flatnonzero(mask)))
        if token == rig.end:
            break
        ids.append(token)
        state.accept(token)
    text = rig.tokenizer.decode(ids, skip_special_tokens=True)
    parser = ToolParser("hermes")
    calls: dict[int, tuple[str, list[str]]] = {}
    for event in parser.feed(text) + ([] if len(ids) == 400 else parser.finish()):
        if isinstance(event, CallStart):
            calls[event.index] = (event.name, [])
        elif isinstance(event, CallArguments):
            calls[event.index][1].append(event.text)
        else:
            assert isinstance(event, Content)
    mask = state.allowed()
    if mask is not None and not mask[rig.end]:
        calls.popitem()  # cut off within it
    assert len(ids) < 100 or calls
    for name, parts in calls.values():
        arguments = json.loads("".join(parts))
        assert name in ("weather", "time") and set(arguments) == ({"city"} if name == "weather" else set())


def _begun(rig: Rig, ids: list[int], tempting: list[int]) -> bool:
    return bool(_next(rig, ids, tempting))


def _next(rig: Rig, ids: list[int], tempting: list[int]) -> list[int]:
    """The token that goes on with a trigger, when the text ends within one."""
    for done in range(len(tempting) - 1, 0, -1):
        if ids[-done:] == tempting[:done]:
            return [tempting[done]]
    return []
