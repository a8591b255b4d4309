"""A step on its way from the worker to the serving process, most often one token of each stream.

As plain tuples: pickle calls Python to take a named one apart, and names its class, for every delta."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

from serving.runtimes.base import RuntimeStats, SequenceDelta


def pack(deltas: Sequence[SequenceDelta], stats: RuntimeStats | None) -> bytes:
    return pickle.dumps(([tuple(delta) for delta in deltas], stats), pickle.HIGHEST_PROTOCOL)


def unpack(raw: bytes) -> tuple[list[SequenceDelta], RuntimeStats | None]:
    deltas, stats = pickle.loads(raw)
    return [SequenceDelta._make(delta) for delta in deltas], stats
