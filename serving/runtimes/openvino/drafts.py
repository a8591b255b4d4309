"""N-gram speculation for a stream that runs alone: what followed the last few tokens where they stood before is
computed in the same step as the newest token.

A draft decides nothing. The sequence's own sampler chooses every token from the model's logits, one after the other;
the step brings more than one token when its choices are the drafts. So penalties, grammars, seeds and stop conditions
hold as they do without drafts. A step of four rows costs a tenth more than one of a single row, whose time goes into
reading weights and into OpenVINO's per-node work, and almost half more than a single row in a compiled model of its own
(docs/decisions.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

DRAFTS = 3  # tokens proposed in a step, always this many: for another row count OpenVINO prepares all its nodes again
LONGEST = 3  # tokens looked for; then two, then one
HOPE, MEMORY = 0.2, 0.94  # the mean of drafts accepted per step starts this far above their cost; its decay
FIRST_PAUSE, LONGEST_PAUSE = 64, 1024  # steps without drafts, after the mean fell below the cost


class Terms(NamedTuple):
    """``cost``: of the extra rows, in steps without drafts: drafting pays if more than this are accepted per step.
    ``shortest``: the fewest tokens that must match; with 0 there are drafts without any match too.
    ``penalty``: a repetition_penalty from which on there are none."""

    cost: float
    shortest: int
    penalty: float


ALWAYS = Terms(0.1, 0, 1.1)  # one compiled model for every row count, which should not change from step to step
MATCHED = Terms(0.45, 3, math.inf)  # a single row has a compiled model of its own, so any step may do without drafts


class Drafter:
    """Drafts for one sequence. Pauses depend on counts, never on time, so a repeated request gets the same answer."""

    def __init__(self, terms: Terms = ALWAYS) -> None:
        self.terms = terms
        self._follower: dict[tuple[int, ...], int] = {}  # where the token after the latest occurrence stands
        self._indexed = 0
        self._mean = self._start = terms.cost + HOPE
        self._pause = FIRST_PAUSE
        self._left = 0  # steps of the pause

    def propose(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """``DRAFTS`` tokens that may follow ``tokens``; none without a match or in a pause. One call per step."""
        if self._left:
            self._left -= 1
            return ()
        self._index(tokens)
        size = len(tokens)
        for length in range(min(LONGEST, size - 1), max(self.terms.shortest, 1) - 1, -1):
            start = self._follower.get(tuple(tokens[-length:]))
            if start is not None:  # a copy that reaches the end goes on with itself: text that repeats, repeats
                return tuple(tokens[start + number % (size - start)] for number in range(DRAFTS))
        return () if self.terms.shortest else (tokens[-1],) * DRAFTS

    def learn(self, accepted: int) -> None:
        """How many of the last proposal's tokens were chosen."""
        self._mean = MEMORY * self._mean + (1 - MEMORY) * accepted
        if self._mean < self.terms.cost:
            self._left, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
            self._mean = self._start
        elif self._mean > self._start:
            self._pause = FIRST_PAUSE

    def _index(self, tokens: Sequence[int]) -> None:
        for end in range(max(self._indexed, 1), len(tokens)):
            for length in range(1, min(LONGEST, end) + 1):
                self._follower[tuple(tokens[end - length : end])] = end
        self._indexed = len(tokens)
