"""The CPU engine as it is served, through its runtime, worker process and all, but without drafts."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contract import engine_dir
from contract.sampling import Sampling
from loadtest.bench.cpu.figures import Figures, Workload, measured, report
from serving import runtimes
from serving.runtimes.base import EngineRequest, RuntimeOptions


def measure(model: str, load: Workload) -> list[Figures]:
    """``model`` is an engine directory."""
    arrived: dict[int, list[float]] = {}
    changed = threading.Condition()

    def on_step(deltas: Sequence[Any]) -> None:
        with changed:
            for delta in deltas:
                arrived.setdefault(delta.sequence_id, []).append(time.perf_counter())
            changed.notify_all()

    engine = engine_dir.read(Path(model))
    # no drafts: answers to random tokens soon repeat themselves, and drafts would look better than they are
    options = RuntimeOptions(threads=load.threads, speculate=False)
    runtime = runtimes.load(engine, options, on_step, lambda reason: None)

    def ask(prompts: list[list[int]]) -> list[float]:
        arrived.clear()
        start = time.perf_counter()
        for number, prompt in enumerate(prompts):
            runtime.submit(EngineRequest(number, prompt, Sampling(load.tokens, temperature=0.0, ignore_eos=True)))
        with changed:
            changed.wait_for(
                lambda: len(arrived) == len(prompts) and all(len(t) == load.tokens for t in arrived.values())
            )
        return [max(times) - start for times in zip(*arrived.values(), strict=True)]

    try:
        return measured(load, ask)
    finally:
        runtime.close()


if __name__ == "__main__":
    report(measure)
