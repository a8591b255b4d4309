"""Token lengths as text: ``128``, ``uniform(64,256)``, ``normal(300,80)``, ``lognormal(200,0.6)``.

``lognormal(median,sigma)`` is given by its median because that is the figure people know about their prompts; the
``sigma`` is that of the logarithm. Samples are whole tokens, never below 1.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass

from loadtest.errors import LoadtestError

MAX_TOKENS = 1_000_000  # above any context: a longer draw is a typing mistake
_FORM = re.compile(r"^\s*(?:(\w+)\s*\(\s*([\d.]+)\s*,\s*([\d.]+)\s*\)|(\d+))\s*$")
HELP = "a number, uniform(low,high), normal(mean,deviation) or lognormal(median,sigma)"


@dataclass(frozen=True, slots=True)
class Length:
    kind: str
    a: float
    b: float

    def sample(self, rng: random.Random) -> int:
        """One length in tokens, 1…MAX_TOKENS."""
        if self.kind == "fixed":
            value = self.a
        elif self.kind == "uniform":
            value = rng.randint(int(self.a), int(self.b))
        elif self.kind == "normal":
            value = rng.gauss(self.a, self.b)
        else:
            value = self.a * math.exp(rng.gauss(0.0, self.b))
        return max(1, min(MAX_TOKENS, round(value)))

    def __str__(self) -> str:
        return f"{self.a:g}" if self.kind == "fixed" else f"{self.kind}({self.a:g},{self.b:g})"


def parse_length(text: str, field: str = "length") -> Length:
    """Raises ``LoadtestError`` naming ``field``."""
    match = _FORM.match(text)
    if match is None:
        raise LoadtestError(f"{field}: {text!r} is not a length: write {HELP}")
    kind, a, b, fixed = match.groups()
    try:
        length = Length("fixed", float(fixed), 0.0) if fixed else Length(kind, float(a), float(b))
    except ValueError:
        raise LoadtestError(f"{field}: {text!r} holds a bad number: write {HELP}") from None
    _check(length, text, field)
    return length


def _check(length: Length, text: str, field: str) -> None:
    if length.kind not in ("fixed", "uniform", "normal", "lognormal"):
        raise LoadtestError(f"{field}: no distribution {length.kind!r}: write {HELP}")
    if not 1 <= length.a <= MAX_TOKENS:
        raise LoadtestError(f"{field}: {text!r} must start at 1 to {MAX_TOKENS} tokens")
    if length.kind == "uniform" and not length.a <= length.b <= MAX_TOKENS:
        raise LoadtestError(f"{field}: {text!r} must have low <= high <= {MAX_TOKENS}")
