"""``guided_decoding_complete``: whatever a model would write, the answer is whole within ``max_tokens``."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import jsonschema
import numpy as np
import pytest

from contract.errors import InvalidRequest
from contract.sampling import Guide, GuideType, Sampling
from serving.gateway.core.guides import tool_tags
from serving.gateway.schema.protocol import Tool
from serving.runtimes.openvino.endings import THOROUGH_SECONDS
from serving.runtimes.openvino.sampling import Sampler
from tests.serving.runtimes.openvino.rig import Rig

PLENTY = 10_000


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return Rig(tmp_path_factory.mktemp("endings"), special=False)


def least(rig: Rig, guide: Guide) -> int:
    """The fewest tokens, as the refusal of 0 tells them."""
    state = rig.grammars.start(guide)
    with pytest.raises(InvalidRequest, match="give at least") as refused:
        rig.grammars.ending(guide, state, 0)
    return int(str(refused.value).rsplit(" ", 1)[1])


def written(rig: Rig, guide: Guide, max_tokens: int, seed: int) -> tuple[str, bool]:
    """What a model writes that likes any token as well as another, and whether it came to its end."""
    state = rig.grammars.start(guide)
    sampling = Sampling(max_tokens, seed=seed, stop_token_ids=(rig.end,), guide=guide)
    sampler = Sampler(sampling, [], state, rig.grammars.ending(guide, state, max_tokens))
    logits = np.random.default_rng(seed)
    while len(sampler.output) < max_tokens and not state.finished and sampler.output[-1:] != [rig.end]:
        sampler.accept(sampler.choose(logits.normal(0, 2, rig.size + 8).astype(np.float32)).token)
    ended = state.finished or sampler.output[-1] == rig.end
    return rig.tokenizer.decode([t for t in sampler.output if t != rig.end], skip_special_tokens=False), ended


def random_schema(dice: random.Random, depth: int = 0) -> dict[str, Any]:
    plain: list[dict[str, Any]] = [
        {"type": "string"}, {"type": "string", "minLength": 3, "maxLength": 6}, {"type": "boolean"}, {"type": "null"},
        {"type": "string", "pattern": "^[a-z]{2,4}-[0-9]+$"}, {"type": "string", "format": "date"}, {"type": "number"},
        {"type": "integer", "minimum": 17, "maximum": 4000}, {"enum": ["red", "green", 7]}, {"const": "Köln"},
    ]  # fmt: skip
    kind = dice.choice(["plain", "plain", "object", "object", "array", "anyOf"] if depth < 3 else ["plain"])
    if kind == "object" or depth == 0:
        names = dice.sample(["city", "name", "tags", "größe", "x"], dice.randint(0, 4))
        parts = {name: random_schema(dice, depth + 1) for name in names}
        required = [name for name in names if dice.random() < 0.6]
        return {"type": "object", "properties": parts, "required": required, "additionalProperties": False}
    if kind == "array":
        return {"type": "array", "items": random_schema(dice, depth + 1), "minItems": dice.randint(0, 2)}
    if kind == "anyOf":
        return {"anyOf": [random_schema(dice, depth + 1) for _ in range(2)]}
    return dice.choice(plain)


@pytest.mark.parametrize("seed", range(50))
def test_an_answer_is_whole_at_every_limit(rig: Rig, seed: int) -> None:
    schema = random_schema(random.Random(seed))
    guide = Guide("json_schema", json.dumps(schema))
    fewest = least(rig, guide)
    with pytest.raises(InvalidRequest, match=f"give at least {fewest}"):
        rig.grammars.ending(guide, rig.grammars.start(guide), fewest - 1)
    for max_tokens in (fewest, fewest + 1, fewest + 2, fewest + 9, fewest + 30):
        text, ended = written(rig, guide, max_tokens, seed + max_tokens)
        assert ended, (schema, max_tokens, text)
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "object"}, "{}"),
        ({"type": "array", "items": {"type": "object"}, "minItems": 2}, "[{},{}]"),
        ({"type": "integer", "minimum": 17}, "17"),
        ({"enum": ["greenish", "red"]}, '"red"'),
        ({"anyOf": [{"type": "object", "properties": {"long": {}}, "required": ["long"]}, {"type": "null"}]}, "null"),
        ({"type": "string", "pattern": "^([,]+!|ab)$"}, '"ab"'),
        ({"type": "object", "properties": {"tags": {}, "age": {}}, "required": ["age"]}, '{"age":0}'),
    ],
)
def test_what_is_shortest(rig: Rig, schema: dict[str, Any], text: str) -> None:
    guide = Guide("json_schema", json.dumps(schema))
    found = json.loads(written(rig, guide, least(rig, guide), 0)[0])
    assert len(json.dumps(found, separators=(",", ":"))) <= len(text), found


@pytest.mark.parametrize(
    ("kind", "guide", "pattern"),
    [
        ("regex", "(yes|no), [a-z]{3,}\\.", r"(yes|no), [a-z]{3,}\."),
        ("ebnf_grammar", 'root ::= "(" root ")" | "x"', ""),
    ],
)
def test_other_grammars_end_too(rig: Rig, kind: GuideType, guide: str, pattern: str) -> None:
    asked = Guide(kind, guide)
    for max_tokens in range(fewest := least(rig, asked), fewest + 12):
        assert written(rig, asked, max_tokens, max_tokens)[1]


def test_a_call_is_whole_or_does_not_begin(rig: Rig) -> None:
    """Free text may be cut anywhere; after ``<tool_call>`` the call ends within what is left."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = Tool.model_validate({"type": "function", "function": {"name": "weather", "parameters": schema}})
    guide = Guide("structural_tag", tool_tags([tool], ("", "", ""), one=False), optional=True)
    opening = rig.ids("<tool_call>")
    for max_tokens in range(len(opening) + 1, 120, 7):
        state = rig.grammars.start(guide)
        sampler = Sampler(
            Sampling(max_tokens, seed=max_tokens), [], state, rig.grammars.ending(guide, state, max_tokens)
        )
        dice = np.random.default_rng(max_tokens)
        while len(sampler.output) < max_tokens and sampler.output[-1:] != [rig.end]:
            row = dice.normal(0, 2, rig.size + 8).astype(np.float32)
            if len(sampler.output) < len(opening):
                row[opening[len(sampler.output)]] = 100
            sampler.accept(sampler.choose(row).token)
        text = rig.tokenizer.decode(sampler.output, skip_special_tokens=False)
        assert text.count("<tool_call>") == text.count("</tool_call>"), (max_tokens, text)


def test_a_resumed_answer_goes_on_as_it_would_have(rig: Rig) -> None:
    guide = Guide("json_schema", json.dumps({"type": "object", "properties": {"a": {"type": "string"}}}))
    sampling = Sampling(12, temperature=0.0, stop_token_ids=(rig.end,), guide=guide)

    def sampler() -> Sampler:
        state = rig.grammars.start(guide)
        return Sampler(sampling, [], state, rig.grammars.ending(guide, state, 12))

    def go(on: Sampler, count: int) -> list[int]:
        for at in range(len(on.output), count):
            on.accept(on.choose(np.random.default_rng(at).normal(0, 2, rig.size + 8).astype(np.float32)).token)
        return on.output

    whole = sampler()
    while not (whole.grammar and whole.grammar.finished):
        go(whole, len(whole.output) + 1)
    for cut in range(1, len(whole.output)):
        again = sampler()
        again.resume(whole.output[:cut])
        assert go(again, len(whole.output)) == whole.output


def test_a_search_without_end_is_given_up_soon(rig: Rig) -> None:
    """Two required members of the next kind, thirty kinds deep: the shortest answer has a billion members."""

    def kind(n: int) -> dict[str, Any]:
        following = {"$ref": f"#/$defs/l{n + 1}"}
        return {"type": "object", "properties": {"a": following, "b": following}, "required": ["a", "b"]}

    kinds = {f"l{n}": kind(n) for n in range(30)}
    guide = Guide("json_schema", json.dumps({"$ref": "#/$defs/l0", "$defs": {**kinds, "l30": {"type": "integer"}}}))
    state, began = rig.grammars.start(guide), time.thread_time()
    with pytest.raises(ValueError, match="no short answer was found"):
        rig.grammars.ending(guide, state, 100)
    assert time.thread_time() - began < 2 * THOROUGH_SECONDS
