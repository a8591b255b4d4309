"""Guides that llguidance does not survive, or reads as something else: refused before it sees them. Pure.

It follows references by recursion, so long chains of them overflow its stack (8 MiB hold about 1,700 levels of a
schema and 2,600 rules), and so does an integer range that holds only the lowest number of 64 bits. That ends the
process and with it every answer. A large ``multipleOf`` keeps all guides waiting for as long as its automaton grows.
Numbers are float64: for a ``const`` of 9007199254740993 it would write …992.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from serving.json_schema_exclusive import target

LEVELS = 600  # of a schema and all that it refers to, one below the other in the worst order
RULES = 1200  # of a grammar, and brackets in them; each may stand below the others
EXACT = 2**53  # integers up to here are float64's too
LOWEST = -(2.0**63)
STEPS = 100_000  # that multiples are told by: a state of the automaton each, and a second's work
_TEXTS = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/')  # and regular expressions
_RANGE = re.compile(r"Failed to generate regex for \w+ range: min=(?:None|Some\((.+?)\)), max=(?:None|Some\((.+?)\))")
_COMBINING = ("allOf", "anyOf", "oneOf", "$ref")
_UPPER = ("maximum", "exclusiveMaximum")


def checked_schema(schema: Any) -> None:
    """Raises ``ValueError`` with the reason."""
    for part in _objects(schema):
        for number in (n for key in ("const", "enum") for n in _all(part.get(key))):
            if _is_number(number) and abs(number) > EXACT:
                raise ValueError(f"{number} is beyond 2^53 and would not be written exactly; make it a string")
        for key in _UPPER:
            if _is_number(part.get(key)) and part[key] <= LOWEST + EXACT:
                raise ValueError(_too_far(key, part[key]))
    if _steps(schema) > STEPS:
        raise ValueError(f"multipleOf takes more than {STEPS} steps; leave it out")
    if _levels(schema) > LEVELS:
        raise ValueError(f"its references lead through more than {LEVELS} levels; use fewer of them")


def checked_lark(grammar: str) -> None:
    """Raises ``ValueError`` with the reason; schemas within the grammar are checked too."""
    bare = _TEXTS.sub('""', grammar)
    if sum(":" in line for line in re.split(r"[\r\n]", bare)) + bare.count("(") + bare.count("[") > RULES:
        raise ValueError(f"it has more than {RULES} rules and brackets; use fewer")
    for place in re.finditer(r"%json\s*(?={)", grammar):
        try:
            schema, _ = json.JSONDecoder().raw_decode(grammar, place.end())
        except (ValueError, RecursionError):
            raise ValueError("what follows %json is not JSON") from None
        checked_schema(schema)


def written(schema: Any) -> str:
    """For llguidance, whose own conversion lacks integers beyond 64 bits. Raises ``ValueError`` for an infinite one."""
    return json.dumps(schema, allow_nan=False)


def plain(problem: str) -> str:
    """llguidance's word for a bound that it lacks (some 18 digits long), as the one that ``checked_schema`` has."""
    if not (found := _RANGE.search(problem)):
        return problem
    return _too_far(*max(zip(("minimum", "maximum"), found.groups("0"), strict=True), key=lambda b: abs(float(b[1]))))


def _too_far(bound: str, value: object) -> str:
    return f"{bound} {value} is too far from 0 to be enforced; leave it out"


def _steps(schema: Any) -> int:
    """The largest ``multipleOf`` as an integer, its decimal point left out; all in one where parts may be combined."""
    found = {str(part["multipleOf"]) for part in _objects(schema) if _is_number(part.get("multipleOf"))}
    numbers = [number for text in found if (number := Decimal(text).normalize())]
    if any(not number.is_finite() for number in numbers):
        return STEPS + 1
    places = [max(0, -int(number.as_tuple().exponent)) for number in numbers]
    if any(key in part for part in _objects(schema) for key in _COMBINING):
        places = [max(places, default=0)] * len(places)
        return math.lcm(*(int(n.scaleb(p)) for n, p in zip(numbers, places, strict=True)))
    return max((abs(int(n.scaleb(p))) for n, p in zip(numbers, places, strict=True)), default=0)


def _levels(schema: Any) -> int:
    """At most so many objects stand one below the other, in whatever order the references are followed."""
    depth = _depth(schema)
    references = {part["$ref"] for part in _objects(schema) if isinstance(part.get("$ref"), str)}
    found = (target(schema, reference) for reference in references)
    return depth + sum(_depth(part) if isinstance(part, dict) else depth for part in found)


def _depth(value: Any) -> int:
    deepest, todo = 0, [(value, 0)]
    while todo:
        part, above = todo.pop()
        if isinstance(part, dict):
            deepest = max(deepest, above + 1)
            todo += [(x, above + 1) for x in part.values()]
        elif isinstance(part, list):
            todo += [(x, above) for x in part]
    return deepest


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    return (part for part in _all(value) if isinstance(part, dict))


def _all(value: Any) -> Iterator[Any]:
    todo = [value]
    while todo:
        part = todo.pop()
        yield part
        if isinstance(part, dict):
            todo += part.values()
        elif isinstance(part, list):
            todo += part


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
