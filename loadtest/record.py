"""One request as the generator saw it. All times are seconds since the run's epoch; token counts are the server's.

t_sched  planned send          t_send  actual send
t_first  first message with at least one output token
t_last   last message with an output token
t_end    the stream ended, in whatever way
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["completed", "failed", "cancelled", "in_flight"]
FORMULAS = {
    "ttft_sched": "t_first − t_sched (what a user waits who arrives on time)",
    "ttft": "t_first − t_send",
    "e2e_sched": "t_last − t_sched",
    "e2e": "t_last − t_send",
    "tpot": "(t_last − t_first) / (n − 1), requests whose n > 1 output tokens came in more than one piece",
    "itl": "gaps between consecutive messages of a stream, pooled over all streams",
    "lag": "t_send − t_sched (the generator's own lateness)",
}
METRICS = tuple(FORMULAS)


@dataclass(slots=True)
class Record:
    index: int
    scenario: str
    transport: str
    measured: bool  # False: warm-up, left out of every figure
    t_sched: float
    t_send: float | None = None
    t_first: float | None = None
    t_last: float | None = None
    t_end: float | None = None
    outcome: Outcome = "in_flight"
    error_kind: str = ""
    error: str = ""
    finish_reason: str = ""
    conversation: int = 0
    turn: int = 0
    worker: int = 0
    requested_tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    messages: int = 0
    longest_gap: float = 0.0
    counted: bool = True  # by the server; False: one token per message

    def values(self) -> dict[str, float | None]:
        """The metrics of ``FORMULAS`` except itl; ``None`` where the request has none."""
        first, last, n = self.t_first, self.t_last, self.completion_tokens
        done = self.outcome == "completed"
        return {
            "ttft_sched": _minus(first, self.t_sched),
            "ttft": _minus(first, self.t_send),
            "e2e_sched": _minus(last, self.t_sched) if done else None,
            "e2e": _minus(last, self.t_send) if done else None,
            "tpot": spread / (n - 1) if done and n > 1 and (spread := _minus(last, first)) else None,
            "lag": _minus(self.t_send, self.t_sched),
        }

    def slo_values(self) -> dict[str, float | None]:
        """What limits are held against: TTFT and E2E from the scheduled send."""
        values = self.values()
        return {"ttft": values["ttft_sched"], "e2e": values["e2e_sched"], "tpot": values["tpot"]}

    def to_wire(self) -> list[Any]:
        return [getattr(self, name) for name in _FIELDS]

    @classmethod
    def from_wire(cls, row: list[Any]) -> Record:
        return cls(*row)

    def to_json(self) -> dict[str, Any]:
        """One line of requests.jsonl."""
        data = {name: _rounded(getattr(self, name)) for name in _FIELDS}
        return data | {f"{name}_s": _rounded(value) for name, value in self.values().items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        return cls(**{name: data[name] for name in _FIELDS if name in data})


_FIELDS = tuple(f.name for f in dataclasses.fields(Record))


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
