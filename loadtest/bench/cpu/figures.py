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

Text = tuple[list[int], int]  # a real prompt, and the tokens that its answer may have


@dataclass(frozen=True, slots=True)
class Workload:
    """``length`` random tokens in and ``tokens`` out for each stream; ``streams`` are measured one after the other.

    Or ``texts``, asked one after the other, whose answers end with one of the tokens ``ends``. ``threads`` 0 leaves
    the number to the engine."""

    streams: tuple[int, ...]
    length: int
    tokens: int
    vocabulary: int
    threads: int
    texts: tuple[Text, ...] = ()
    ends: tuple[int, ...] = ()


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


Ask = Callable[[list[list[int]], int], Sequence[float]]


def measured(load: Workload, ask: Ask) -> list[Figures]:
    """``ask(prompts, tokens)`` answers them all; seconds until every stream has its first, second, … token."""
    ask(prompts(load, load.streams[0], seed=0), load.tokens)
    if load.texts:
        return [of_texts([len(ids) for ids, _ in load.texts], [ask([ids], tokens) for ids, tokens in load.texts])]
    found = []
    for streams in load.streams:
        times = ask(prompts(load, streams, seed=1), load.tokens)
        if len(times) != load.tokens:
            raise RuntimeError(f"{len(times)} tokens came, {load.tokens} were asked for")
        found.append(figures(load, streams, times[0], times[-1]))
    return found


def of_texts(lengths: Sequence[int], answers: Sequence[Sequence[float]]) -> Figures:
    """One stream's: the median TTFT, and all tokens over all time."""
    first = [times[0] for times in answers]
    decoding = sum(times[-1] - times[0] for times in answers)
    tokens = sum(len(times) - 1 for times in answers)
    return Figures(1, statistics.median(first), sum(lengths) / sum(first), tokens / decoding)


def arguments(load: Workload) -> list[str]:
    return [json.dumps(asdict(load))]


def report(measure: Callable[[str, Workload], list[Figures]]) -> None:
    """The ``main`` of an engine's module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("load", type=json.loads)
    args = parser.parse_args()
    given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in args.load.items()}
    load = Workload(**given)
    print(json.dumps([asdict(item) for item in measure(args.model, load)]))


def row(engine: str, streams: int, found: Sequence[Figures]) -> dict[str, Any]:
    """Medians over the rounds, with the smallest and the largest value."""
    figure: dict[str, Any] = {"engine": engine, "streams": streams, "rounds": len(found)}
    for key, name in (("ttft", "ttft_s"), ("prefill", "prefill_tokens_per_s"), ("decode", "decode_tokens_per_s")):
        values = [getattr(item, key) for item in found]
        figure[name] = round(statistics.median(values), 3)
        figure[f"{name}_spread"] = [round(min(values), 3), round(max(values), 3)]
    return figure
