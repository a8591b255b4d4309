"""One line of the table: a cure, what is claimed for it, and what was seen here before and after."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Side:
    """``value`` in ``unit``, got by ``command``."""

    label: str
    value: float
    unit: str
    command: str


@dataclass(frozen=True, slots=True)
class Row:
    """``better`` says which way is an improvement: "less" or "more"."""

    cure: str
    claim: str
    measure: str
    before: Side
    after: Side
    better: str
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times better the cure made it; below 1 it made it worse."""
        pair = (self.before.value, self.after.value) if self.better == "less" else (self.after.value, self.before.value)
        return pair[0] / pair[1]
