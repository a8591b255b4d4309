"""Grammars at their limits: what llguidance gives up is the request's fault, and said in its words."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from contract.errors import InvalidRequest, from_wire
from contract.sampling import Guide, Sampling
from serving.gateway.core.guides import LENIENT
from serving.runtimes.base import EngineRequest
from serving.runtimes.openvino.blocks import BlockPool
from serving.runtimes.openvino.engine import Engine
from serving.runtimes.openvino.guides import MASK_SECONDS, Grammars, Pace, grammar_of
from serving.runtimes.openvino.sampling import GrammarError
from serving.runtimes.openvino.scheduler import ScheduledChunk
from tests.byte_tokenizer import byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokenizer]:
    """One token per byte, and an end."""
    tokenizer = byte_tokenizer(special=["<end>"])
    path = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    tokenizer.save(str(path))
    return path, tokenizer


def test_a_schema_of_many_optional_properties_can_be_followed(tokenizer: tuple[Path, Tokenizer]) -> None:
    """Each property is an item of the parser's row; llguidance allows 2,000 by default."""
    path, encoder = tokenizer
    properties = {f"p{number}": {"type": "string", "enum": [f"v{number}"]} for number in range(1300)}
    guide = Guide("json_schema", json.dumps({"type": "object", "properties": properties}))
    state = Grammars(path, 257, [256]).start(guide)
    for token in [*encoder.encode('{"p7": "v7", "p1299": "v1299"}').ids, 256]:
        allowed = state.allowed()
        assert allowed is not None and allowed[token]
        state.accept(token)
    assert state.finished


def tagged(kind: str, **more: object) -> dict[str, object]:
    return {
        "type": "object",
        "properties": {"kind": {"const": kind}, "n": {"type": "integer"}, **more},
        "required": ["kind"],
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [tagged("a"), tagged("b")]},
        {"$defs": {"A": tagged("a"), "B": tagged("b")}, "discriminator": {"propertyName": "kind"},
         "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]},
        {"oneOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]},
        {"oneOf": [{"enum": ["a", 1]}, {"enum": ["b", 2]}]},
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
         "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"oneOf": [{"type": "object", "properties": {"a": {}}, "required": ["a"]},
                   {"type": "object", "properties": {"b": {}}, "required": ["b"]}]},
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": False, "maxItems": 3.0},
    ],
)  # fmt: skip
def test_branches_that_exclude_each_other_are_enforced(schema: dict[str, object]) -> None:
    """pydantic's discriminated unions, zod's, and "exactly one of these"."""
    assert grammar_of(Guide("json_schema", json.dumps(schema)))


def test_exactly_one_of_two_names(tokenizer: tuple[Path, Tokenizer]) -> None:
    path, encoder = tokenizer
    names = {"a": {"const": 1}, "b": {"const": 1}}
    schema = {"type": "object", "properties": names, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}
    state = Grammars(path, 257, [256]).start(Guide("json_schema", json.dumps(schema | {"additionalProperties": False})))
    for token in encoder.encode('{"a": 1').ids:
        state.accept(token)
    allowed = state.allowed()
    assert allowed is not None and allowed[encoder.encode("}").ids[0]] and not allowed[encoder.encode(",").ids[0]]


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"type": "string", "pattern": "(?=a)b"},
        {"$ref": "/$defs/missing"},
        {"type": "STRING"},  # Google's
    ],
)
def test_of_a_lenient_schema_all_else_is_enforced(tokenizer: tuple[Path, Tokenizer], odd: dict[str, object]) -> None:
    path, encoder = tokenizer
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "pattern": odd}, "required": ["n", "pattern"]}
    with pytest.raises(ValueError, match=r"cannot|valid"):
        Grammars(path, 257, [256]).start(Guide("json_schema", json.dumps(schema)))
    state = Grammars(path, 257, [256]).start(Guide("json_schema", json.dumps(schema | LENIENT)))
    for token in encoder.encode('{"n": ').ids:
        state.accept(token)
    allowed = state.allowed()
    assert allowed is not None and allowed[encoder.encode("7").ids[0]] and not allowed[encoder.encode("x").ids[0]]
    for token in encoder.encode('7, "pattern": ').ids:
        state.accept(token)


def test_a_reference_of_litellms_leads_where_it_was_meant_to(tokenizer: tuple[Path, Tokenizer]) -> None:
    path, encoder = tokenizer
    schema = {"type": "object", "$defs": {"A": tagged("a"), "B": tagged("b")}, "required": ["pet"],
              "properties": {"pet": {"oneOf": [{"$ref": "/$defs/A"}, {"$ref": "/$defs/B"}]}}}  # fmt: skip
    state = Grammars(path, 257, [256]).start(Guide("json_schema", json.dumps(schema | LENIENT)))
    for token in encoder.encode('{"pet": {"kind": "').ids:
        state.accept(token)
    allowed = state.allowed()
    assert allowed is not None and allowed[encoder.encode("b").ids[0]] and not allowed[encoder.encode("c").ids[0]]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf (in '{\"oneOf\"", ),
        ({"oneOf": [{"type": "string", "minLength": 1}, {"type": "string"}]}, "one value may fit two of its branches"),
        ({"type": "array", "uniqueItems": True}, "this engine cannot enforce uniqueItems (in"),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_refused_by_name(
    tokenizer: tuple[Path, Tokenizer], schema: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Grammars(tokenizer[0], 257, [256]).start(Guide("json_schema", json.dumps(schema)))


class GivesUp:
    """A grammar that takes one token."""

    seconds, finished = 0.0, False

    def __init__(self) -> None:
        self.taken = 0

    def allowed(self) -> None:
        return None

    def accept(self, token: int) -> None:
        self.taken += 1
        if self.taken > 1:
            raise GrammarError("it has too many branches")


class Zeros:
    def forward(self, chunks: list[ScheduledChunk]) -> np.ndarray:
        return np.zeros((sum(chunk.rows for chunk in chunks), 257), np.float32)


def test_a_grammar_that_fails_on_the_way_is_the_requests_fault() -> None:
    engine = Engine(Zeros(), BlockPool(16), 4, 256)
    engine.submit(EngineRequest(1, [1, 2, 3], Sampling(8, temperature=0.0)), GivesUp())
    engine.submit(EngineRequest(2, [1, 2, 3], Sampling(2, temperature=0.0)))
    deltas = [delta for _ in range(4) for delta in engine.step()]
    (failed,) = [delta for delta in deltas if delta.finish_reason == "error"]
    problem = from_wire(failed.error)
    assert isinstance(problem, InvalidRequest) and str(problem) == "guided_decoding_guide: it has too many branches"
    assert [delta.finish_reason for delta in deltas if delta.sequence_id == 2] == [None, "length"]


class Slow:
    """A grammar of which each mask but the first ``quick`` ones takes as long as the slowest one that is accepted."""

    finished = False

    def __init__(self, pace: Pace, quick: int = 0) -> None:
        self._pace, self._quick = pace, quick

    @property
    def seconds(self) -> float:
        return self._pace.seconds

    def allowed(self) -> None:
        self._quick -= 1
        taken = MASK_SECONDS if self._quick < 0 else 0.0
        until = time.thread_time() + taken
        while time.thread_time() < until:
            pass
        self._pace.learn(taken)

    def accept(self, token: int) -> None: ...


@pytest.mark.parametrize("quick", [0, 2])
def test_slow_guides_of_many_sequences_take_turns_and_hold_nobody_up(quick: int) -> None:
    """One request with ``n`` is enough for that; some become slow on the way, all in the same step."""
    engine, many = Engine(Zeros(), BlockPool(64), 32, 256), range(6)
    pace = Pace(0.0 if quick else MASK_SECONDS)
    for number in many:
        engine.submit(EngineRequest(number, [1, 2, 3], Sampling(4 + quick, temperature=0.0)), Slow(pace, quick))
    engine.submit(EngineRequest(6, [1, 2, 3], Sampling(12, temperature=0.0)))
    engine.submit(EngineRequest(7, [1, 2, 3], Sampling(12, temperature=0.0)), Slow(Pace(0.0), 12))
    served: list[list[int]] = []
    while engine.busy:
        began = time.thread_time()
        served.append([delta.sequence_id for delta in engine.step()])
        assert time.thread_time() - began < 3 * MASK_SECONDS
    assert [ids.count(number) for ids in served[:12] for number in (6, 7)] == [1] * 24, "nobody else waits"
    turns = [number for ids in served for number in ids if number in many]
    assert sorted(turns) == sorted([*many] * (4 + quick))
    assert all(sorted(turns[at : at + 6]) == [*many] for at in range(0, len(turns), 6)), "they take turns"


def test_a_guides_pace_is_known_before_the_first_mask_and_by_all(tokenizer: tuple[Path, Tokenizer]) -> None:
    grammars, guide = Grammars(tokenizer[0], 257, [256]), Guide("regex", "[ab]{3,9}")
    one, other = grammars.start(guide), grammars.start(guide)
    assert 0 < one.seconds < 1 and one.seconds == other.seconds
    before = one.seconds
    one.allowed()
    assert one.seconds == other.seconds != before


@pytest.mark.parametrize(
    ("kind", "guide", "complaint"),
    [
        ("regex", "(", "unclosed group"),
        ("regex", "a{5,2}", "invalid repetition count range, the start must be <= the end"),
        ("regex", "(?=a)b", "look-around, including look-ahead and look-behind, is not supported"),
        ("ebnf_grammar", "root ::= foo", "Rule 'foo' not found"),
        ("ebnf_grammar", "start: foo", 'at 1(8): unknown name: "foo"'),
        ("ebnf_grammar", "start: /(/", 'at 1(8): invalid regex "(": unclosed group'),
        ("json_schema", '{"type": "string", "pattern": "("}', "unclosed group"),
        ("json_schema", '{"type": "foo"}', "Invalid type: foo"),
    ],
)
def test_a_bad_guide_is_refused_with_the_sentence_that_says_why(
    tokenizer: tuple[Path, Tokenizer], kind: str, guide: str, complaint: str
) -> None:
    with pytest.raises(ValueError) as error:
        Grammars(tokenizer[0], 257, [256]).start(Guide(kind, guide))
    assert str(error.value).endswith(f" is not a valid {kind} ({complaint}): correct it")
