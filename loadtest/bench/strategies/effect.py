"""One row of the table: a mitigation, the claim made for it, and the measurements before and after."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measurement:
    """``value`` in ``unit``, measured by ``command``."""

    label: str
    value: float
    unit: str
    command: str


@dataclass(frozen=True, slots=True)
class Effect:
    """``better``: the direction of an improvement, "less" or "more"."""

    mitigation: str
    claim: str
    measure: str
    before: Measurement
    after: Measurement
    better: str
    note: str = ""

    @property
    def ratio(self) -> float:
        """Improvement as a factor; below 1 the mitigation made it worse."""
        pair = (self.before.value, self.after.value) if self.better == "less" else (self.after.value, self.before.value)
        return pair[0] / pair[1]
