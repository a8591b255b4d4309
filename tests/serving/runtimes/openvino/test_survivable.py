"""Each of these ended the process that asked llguidance, or was answered with something else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from contract.sampling import Guide
from serving.gateway.core.guides import LENIENT
from serving.runtimes.openvino import survivable
from serving.runtimes.openvino.guides import Grammars, grammar_of
from tests.byte_tokenizer import byte_tokenizer

INT64 = -(2**63)


def chain(links: int, pointer: str = "#/$defs/d{}") -> dict[str, Any]:
    """Objects in one another, each under a name of its own."""
    named: dict[str, Any] = {
        f"d{n}": {"type": "object", "properties": {"a": {"$ref": pointer.format(n + 1)}}} for n in range(links)
    }
    for name, schema in named.items():
        schema |= {"$anchor": name} if "$defs" not in pointer else {}
    return {"$ref": pointer.format(0), "$defs": named | {f"d{links}": {"type": "null", "$anchor": f"d{links}"}}}


@pytest.fixture(scope="module")
def grammars(tmp_path_factory: pytest.TempPathFactory) -> Grammars:
    path = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    byte_tokenizer(special=["<end>"]).save(str(path))
    return Grammars(path, 257, [256])


DEADLY: dict[str, Any] = {
    "const": {"const": INT64},
    "a number within a const": {"const": {"a": [INT64]}},
    "enum": {"type": "object", "properties": {"a": {"enum": [1, INT64 + 1]}}},
    "one integer": {"type": "integer", "minimum": INT64, "maximum": INT64},
    "below 64 bits": {"type": "integer", "minimum": -1e30, "maximum": -1e19},
    "in two parts": {"allOf": [{"type": "integer", "minimum": -1e19}, {"exclusiveMaximum": -1e19}]},
    "large steps": {"minimum": 100000, "multipleOf": 2147483647},
    "steps that make large ones": {"multipleOf": 9973, "anyOf": [{"multipleOf": 9.967}, {"multipleOf": 7}]},
    "a chain": chain(4000),
    "a chain of anchors": chain(4000, "#d{}"),
}


@pytest.mark.parametrize("schema", DEADLY.values(), ids=DEADLY)
def test_what_would_end_the_process_is_refused(grammars: Grammars, schema: dict[str, Any]) -> None:
    text = json.dumps(schema)
    for guide in (
        Guide("json_schema", text),
        Guide("ebnf_grammar", f"start: %json {text}"),
        Guide("structural_tag", json.dumps({"format": {"type": "json_schema", "json_schema": schema}})),
    ):
        with pytest.raises(
            ValueError, match=r"beyond 2\^53|too far from 0|more than 100000 steps|more than 600 levels"
        ):
            grammars.start(guide)


@pytest.mark.parametrize("schema", DEADLY.values(), ids=DEADLY)
def test_a_schema_that_nobody_promised_to_enforce_goes_without(grammars: Grammars, schema: dict[str, Any]) -> None:
    """As a tool's: the rest of it is enforced. A chain of references cannot be taken apart: its call is any object."""
    call = {"type": "json_schema", "json_schema": {"type": "object", "properties": {"a": schema}} | LENIENT}
    grammars.start(Guide("structural_tag", json.dumps({"format": call})))


@pytest.mark.parametrize("bound", ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf"])
@pytest.mark.parametrize("kind", ["integer", "number"])
@pytest.mark.parametrize("number", [INT64, -1e19, 1e19, 2**63 - 1])
def test_nor_are_bounds_that_llguidance_lacks(bound: str, kind: str, number: float) -> None:
    grammar_of(
        Guide(
            "json_schema",
            json.dumps({"items": {"type": kind, bound: abs(number) if bound == "multipleOf" else number}} | LENIENT),
        )
    )


@pytest.mark.parametrize("bound", ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"])
def test_bounds_that_llguidance_lacks_are_refused_in_plain_words(grammars: Grammars, bound: str) -> None:
    far = [INT64 - 1, INT64, INT64 + 1, float(INT64), -1e300, 1e300, 10**30, -(10**30), 2**64]
    name = "minimum" if "inimum" in bound else "maximum"
    for schema in ({"type": kind, bound: number} for number in far for kind in ("integer", "number")):
        if schema["type"] == "integer" and name == "maximum" and schema[bound] > 2**63:
            continue  # what all integers are below
        with pytest.raises(ValueError, match=rf"({bound}|{name}) -?\d.* is too far from 0 to be enforced; leave"):
            grammars.start(Guide("json_schema", json.dumps(schema)))


@pytest.mark.parametrize("name", ["rule{}", "TERMINAL{}"])
@pytest.mark.parametrize(("rules", "brackets"), [(5000, 0), (700, 6)])
def test_rules_that_lead_too_deep_are_refused(name: str, rules: int, brackets: int) -> None:
    lines = [f"{name.format(n)}: {'(' * brackets}{name.format(n + 1)}{')' * brackets}" for n in range(rules)]
    grammar = "\n".join([f"start: {name.format(0)}", *lines, f'{name.format(rules)}: "a"'])
    with pytest.raises(ValueError, match="more than 1200 rules and brackets"):
        grammar_of(Guide("ebnf_grammar", grammar))


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 1234567890123456789, 2**64, 10**30, 1e19])
def test_integers_that_would_be_written_otherwise_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{number} is beyond 2^53")):
        grammar_of(Guide("json_schema", json.dumps({"enum": ["a", number]})))


FINE: dict[str, Any] = {
    "2^53": {"enum": [2**53, -(2**53), 0.1, 5e-300, True, None]},
    "an int64": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
    "steps": {"anyOf": [{"multipleOf": 0.01}, {"multipleOf": 5.0}, {"type": "integer", "multipleOf": 1000}]},
    "more steps": {"prefixItems": [{"multipleOf": 1e-7}, {"type": "integer", "multipleOf": 86400}]},
    "a default": {"type": "integer", "default": INT64, "examples": [10**18]},
    "a default beyond 64 bits": {"type": "integer", "default": 2**70, "examples": [-(2**70)]},
    "names": {"type": "object", "properties": {"const": {"type": "string"}, "maximum": {"type": "string"}}},
    "a hundred definitions": chain(100),
}


@pytest.mark.parametrize("schema", FINE.values(), ids=FINE)
def test_all_else_passes(schema: dict[str, Any]) -> None:
    grammar_of(Guide("json_schema", json.dumps(schema)))
    grammar_of(Guide("ebnf_grammar", f"start: %json {json.dumps(schema)}"))


def test_brackets_in_texts_are_none() -> None:
    grammar_of(Guide("ebnf_grammar", 'start: "' + "(" * 2000 + '" /' + r"\(" * 2000 + "/"))


def test_the_deepest_that_pass_fit_the_stack_together() -> None:
    """In a process of their own: where they do not, it is gone."""
    links = next(n for n in range(10, 1000) if survivable._levels(chain(n)) > survivable.LEVELS) - 1
    rules = "\n".join(f'r{n}: r{n + 1} "b"' for n in range(survivable.RULES - 2))
    grammar = f"start: r0\n{rules}\nr{survivable.RULES - 2}: %json {json.dumps(chain(links))}"
    survivable.checked_lark(grammar)
    code = (
        "import sys; from llguidance import LLMatcher as M; "
        "print(repr(M.validate_grammar(M.grammar_from_lark(sys.stdin.read()))))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=grammar, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "''\n"), done.stderr


ENDLESS = {
    "a rule": "start: r\nr: /a*/ r r",
    "a rule behind a text": 'start: "x" "y" r\nr: /a+/ r',
    "a greedy terminal": 'start: /a*/ "a"',
    "with a setting of its own": '%llguidance {"no_forcing": false}\nstart: r\nr: /a/ r # and a comment',
    "GBNF": 'root ::= "a" root',
}


@pytest.mark.parametrize("grammar", ENDLESS.values(), ids=ENDLESS)
def test_what_has_no_end_holds_nobody_up(grammars: Grammars, grammar: str) -> None:
    """Its answer ends with ``max_tokens`` at the latest. llguidance wrote down all that must follow, for ever."""
    tag = {"type": "tag", "begin": "<", "content": {"type": "grammar", "grammar": grammar}, "end": ">"}
    for guide in (
        Guide("ebnf_grammar", grammar),
        Guide("structural_tag", json.dumps({"format": tag})),
    ):
        state = grammars.start(guide)
        for _ in range(20):
            allowed = state.allowed()
            assert allowed is not None and allowed.any()
            if state.finished:
                break
            state.accept(int(allowed.argmax()))
