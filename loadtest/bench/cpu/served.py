"""The CPU engine as it is served, through its runtime, worker process and all; random tokens without drafts."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from contract import engine_dir
from contract.sampling import Sampling
from loadtest.bench.cpu.figures import Figures, Workload, measured, report
from serving import runtimes
from serving.runtimes.base import EngineRequest, RuntimeOptions, SequenceDelta


def measure(model: str, load: Workload) -> list[Figures]:
    """``model`` is an engine directory."""
    arrived: dict[int, list[float]] = {}
    running: set[int] = set()
    deaths: list[str] = []
    ended = threading.Event()

    def on_step(deltas: Sequence[SequenceDelta]) -> None:
        now = time.perf_counter()
        for delta in deltas:
            arrived[delta.sequence_id] += [now] * delta.counted
            if delta.finish_reason:
                running.discard(delta.sequence_id)
        if not running:  # the only time that another thread wakes: it would take a core from the engine
            ended.set()

    def on_death(reason: str) -> None:
        deaths.append(reason)
        ended.set()

    engine = engine_dir.read(Path(model))
    # Answers to random tokens soon repeat themselves, and drafts would look better than they are.
    options = RuntimeOptions(threads=load.threads, speculate=bool(load.texts))
    runtime = runtimes.load(engine, options, on_step, on_death)

    asked = itertools.count()

    def ask(prompts: list[list[int]], tokens: int) -> list[float]:
        sampling = Sampling(tokens, temperature=0.0, ignore_eos=not load.ends, stop_token_ids=load.ends)
        salt = str(next(asked))  # as for the peers: no prompt finds another one's beginning in the cache
        arrived.clear()
        arrived.update((number, []) for number in range(len(prompts)))
        running.update(arrived)
        ended.clear()
        start = time.perf_counter()
        for number, prompt in enumerate(prompts):
            runtime.submit(EngineRequest(number, prompt, sampling, cache_salt=salt))
        ended.wait()
        if deaths:
            raise RuntimeError(deaths[0])
        return [max(times) - start for times in zip(*arrived.values(), strict=True)]

    try:
        return measured(load, ask)
    finally:
        runtime.close()


if __name__ == "__main__":
    report(measure)
