"""What one engine does with one batch of requests; the command line that every engine's module has.

``python -m loadtest.bench.cpu.ENGINE MODEL …`` prints a JSON list of ``Figures`` as its last line. The modules of peers
run in environments that have little more than the peer: here is the standard library and numpy only.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Workload:
    """``length`` tokens in and ``tokens`` out for each stream; ``streams`` are measured one after the other.

    ``threads`` 0 leaves the number to the engine."""

    streams: tuple[int, ...]
    length: int
    tokens: int
    vocabulary: int
    threads: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What one batch gave: seconds until the slowest stream's first token, and tokens/s summed over the streams.

    ``prefill`` counts prompt tokens until then, ``decode`` new tokens from then on."""

    streams: int
    ttft: float
    prefill: float
    decode: float


def figures(load: Workload, streams: int, first: float, last: float) -> Figures:
    return Figures(streams, first, streams * load.length / first, streams * (load.tokens - 1) / (last - first))


def prompts(load: Workload, streams: int, seed: int) -> list[list[int]]:
    """Random tokens, the same for every engine."""
    rng = np.random.default_rng([seed, streams])
    return [rng.integers(0, load.vocabulary, load.length).tolist() for _ in range(streams)]


def measured(load: Workload, ask: Callable[[list[list[int]]], Sequence[float]]) -> list[Figures]:
    """``ask(prompts)`` answers them all; seconds from the start until every stream has its first, second, … token."""
    ask(prompts(load, load.streams[0], seed=0))
    found = []
    for streams in load.streams:
        times = ask(prompts(load, streams, seed=1))
        if len(times) != load.tokens:
            raise RuntimeError(f"{len(times)} tokens came, {load.tokens} were asked for")
        found.append(figures(load, streams, times[0], times[-1]))
    return found


def arguments(load: Workload) -> list[str]:
    return [json.dumps(asdict(load))]


def report(measure: Callable[[str, Workload], list[Figures]]) -> None:
    """The ``main`` of an engine's module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("load", type=json.loads)
    args = parser.parse_args()
    load = Workload(**{**args.load, "streams": tuple(args.load["streams"])})
    print(json.dumps([asdict(item) for item in measure(args.model, load)]))


def row(engine: str, streams: int, found: Sequence[Figures]) -> dict[str, Any]:
    """Medians over the rounds, with the smallest and the largest value."""
    figure: dict[str, Any] = {"engine": engine, "streams": streams, "rounds": len(found)}
    for key, name in (("ttft", "ttft_s"), ("prefill", "prefill_tokens_per_s"), ("decode", "decode_tokens_per_s")):
        values = [getattr(item, key) for item in found]
        figure[name] = round(statistics.median(values), 3)
        figure[f"{name}_spread"] = [round(min(values), 3), round(max(values), 3)]
    return figure
