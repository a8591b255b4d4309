"""A loaded runtime in a process of its own, without Triton, that answers JSON lines with the figures of one load.

``python -m loadtest.bench.gpu.runtime_worker ENGINE_DIR KV_BYTES``; ``RuntimeWorker`` is the other end.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import queue
import random
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract import engine_dir
from contract.sampling import Sampling
from loadtest.bench.gpu.offline import claim_stdout
from loadtest.bench.gpu.samples import SAMPLING, TimedStream, summarize
from loadtest.bench.process import BenchProcess
from loadtest.errors import LoadtestError
from serving import runtimes
from serving.runtimes.base import EngineRequest, RuntimeOptions, RuntimeStats, SequenceDelta

MAX_STREAMS = 256
SILENCE_SECONDS = 60.0
RUN_SECONDS = 240.0
FIRST_ID, IDS = 1000, 19_000  # prompts are drawn from ordinary tokens


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """``requests`` in a closed loop of ``streams``, or as Poisson arrivals at ``rate`` per second; they take turns
    among ``adapters`` and the base."""

    streams: int
    requests: int
    sampling: str
    input_tokens: int
    output_tokens: int
    adapters: tuple[str, ...] = ()
    rate: float = 0.0
    repeats: bool = False  # prompts of which the answer is a copy: prompt, its own answer, and the prompt again

    def __str__(self) -> str:
        with_adapters = f", {len(self.adapters)} adapters" if self.adapters else ""
        load = f"{self.rate:g} requests/s" if self.rate else f"{self.streams} streams"
        return f"{load}, {self.sampling}{with_adapters}{', text that repeats' if self.repeats else ''}"


class RuntimeWorker(BenchProcess):
    """Starts the process, waits for it and asks it. Raises ``LoadtestError`` when it ends or stays silent."""

    def __init__(
        self, engine: Path, kv_gib: float, log: Path, name: str, start_s: float, environment: dict[str, str]
    ) -> None:
        command = [sys.executable, "-m", "loadtest.bench.gpu.runtime_worker", str(engine), str(int(kv_gib * 2**30))]
        super().__init__(command, log, name=name, start_s=start_s, environment=environment)
        self._start: float | LoadtestError | None = None

    def launch(self, stdout: Any = None) -> None:
        super().launch(subprocess.PIPE)

    def await_or_note(self) -> None:
        """Wait until it is ready; a failure is kept for ``wait_ready``."""
        try:
            self._start = float(self._read(self.start_s)["start_s"])
        except LoadtestError as error:
            self._start = error

    def wait_ready(self) -> float:
        """Seconds that the start took."""
        if self._start is None:
            self.await_or_note()
        if not isinstance(self._start, float):
            raise self._start or LoadtestError(f"{self.name} did not start")
        return self._start

    def run(self, load: WorkerLoad) -> dict[str, Any]:
        assert self.popen is not None and self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(dataclasses.asdict(load)) + "\n")
        self.popen.stdin.flush()
        return self._read(RUN_SECONDS)

    def _read(self, seconds: float) -> dict[str, Any]:
        assert self.popen is not None and self.popen.stdout is not None
        if not select.select([self.popen.stdout], [], [], seconds)[0]:
            raise LoadtestError(f"{self.name}: no answer within {seconds:.0f} s; log: {self.log}")
        line = self.popen.stdout.readline()
        if not line:
            raise LoadtestError(f"{self.name} ended: {self.last_line()[:300]}; log: {self.log}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise LoadtestError(f"{self.name}: {reply['error']}")
        return reply


class _LoadedRuntime:
    def __init__(self, directory: Path, kv_bytes: int) -> None:
        self._deltas: queue.Queue[tuple[float, list[SequenceDelta]] | str] = queue.Queue()
        self._ids, self._random = itertools.count(1), random.Random(os.getpid())
        options = RuntimeOptions(max_streams=MAX_STREAMS, kv_cache_bytes=kv_bytes or None)
        info = engine_dir.read(directory)
        self.runtime = runtimes.load(
            info, options, lambda deltas: self._deltas.put((time.perf_counter(), deltas)), self._deltas.put
        )
        self._vocabulary = min(IDS, self.runtime.limits.vocab_size - FIRST_ID)

    def run(self, load: WorkerLoad) -> dict[str, Any]:
        prompts = [self._prompt(load.input_tokens) for _ in range(load.requests)]
        if load.repeats:
            half = load.input_tokens // 2
            first = dataclasses.replace(load, output_tokens=half, sampling="greedy")
            _, pairs = self._answers(first, [prompt[:half] for prompt in prompts])
            prompts = [[*prompt, *answer, *prompt] for prompt, answer in pairs]
        before = self.runtime.stats()
        return self._figures(summarize(self._answers(load, prompts)[0]), before)

    def _answers(
        self, load: WorkerLoad, prompts: list[list[int]]
    ) -> tuple[list[TimedStream], list[tuple[list[int], list[int]]]]:
        """Times of every stream, and every prompt with its answer."""
        turns, waiting = itertools.cycle(("", *load.adapters)), list(prompts)
        open_: dict[int, tuple[TimedStream, list[int], list[int]]] = {}
        done: list[tuple[TimedStream, list[int], list[int]]] = []
        due = time.perf_counter()
        while waiting or open_:
            while waiting and (time.perf_counter() >= due if load.rate else len(open_) < load.streams):
                self._send(load, next(turns), waiting.pop(), open_)
                due += self._random.expovariate(load.rate) if load.rate else 0.0
            now, deltas = self._next(due - time.perf_counter() if load.rate and waiting else SILENCE_SECONDS)
            for delta in deltas:
                record, _, answer = open_[delta.sequence_id]
                _arrived(record, now, delta.counted)
                answer.extend(delta.token_ids)
                if delta.finish_reason:
                    record.error = delta.error
                    done.append(open_.pop(delta.sequence_id))
        return [record for record, _, _ in done], [(prompt, answer) for _, prompt, answer in done]

    def _figures(self, seen: dict[str, Any], before: RuntimeStats) -> dict[str, Any]:
        after = self.runtime.stats()
        figures: dict[str, Any] = {
            key: seen[key] for key in ("tokens_per_s", "requests", "errors", "first_error") if key in seen
        }
        for name, key in itertools.product(("ttft", "tpot", "itl"), ("p50", "p99")):
            if f"{name}_ms" in seen:
                figures[f"{name}_{key}_ms"] = round(seen[f"{name}_ms"][key], 2)
        figures["steps"] = after.steps - before.steps
        if drafted := after.drafted_tokens - before.drafted_tokens:
            accepted = after.accepted_tokens - before.accepted_tokens
            figures |= {"drafted": drafted, "accepted": round(accepted / drafted, 3)}
        return figures

    def _prompt(self, length: int) -> list[int]:
        return [FIRST_ID + self._random.randrange(self._vocabulary) for _ in range(length)]

    def _send(self, load: WorkerLoad, adapter: str, prompt: list[int], open_: dict[int, Any]) -> None:
        settings: dict[str, Any] = SAMPLING[load.sampling]
        sampling = Sampling(max_tokens=load.output_tokens, ignore_eos=True, **settings)
        number = next(self._ids)
        open_[number] = TimedStream(time.perf_counter(), 0.0, 0.0, 0), prompt, []
        self.runtime.submit(EngineRequest(number, prompt, sampling, lora_name=adapter, seeded=False))

    def _next(self, seconds: float) -> tuple[float, list[SequenceDelta]]:
        """Nothing when the next request is due first. Raises ``queue.Empty`` after a long silence."""
        try:
            message = self._deltas.get(timeout=max(0.0, seconds))
        except queue.Empty:
            if seconds == SILENCE_SECONDS:
                raise
            return 0.0, []
        if isinstance(message, str):
            raise RuntimeError(message)
        return message


def _arrived(record: TimedStream, now: float, tokens: int) -> None:
    if not tokens:
        return
    if record.tokens:
        record.gaps.append(now - record.last)
    else:
        record.first = now
    record.last, record.tokens = now, record.tokens + tokens


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    reply = claim_stdout()
    started = time.monotonic()
    engine = _LoadedRuntime(Path(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({"start_s": round(time.monotonic() - started, 1)}), file=reply, flush=True)
    for line in iter(sys.stdin.readline, ""):
        wanted = json.loads(line)
        load = WorkerLoad(**wanted | {"adapters": tuple(wanted["adapters"])})
        try:
            seen = engine.run(load)
        except (RuntimeError, queue.Empty) as error:
            seen = {"error": str(error) or f"no token within {SILENCE_SECONDS:.0f} s"}
        print(json.dumps(seen), file=reply, flush=True)
    engine.runtime.close()


if __name__ == "__main__":
    main()
