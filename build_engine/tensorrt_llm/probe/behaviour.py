"""One loaded engine against what the adapter counts on. A process per engine: TensorRT-LLM does not unload cleanly.

``python3 -m build_engine.tensorrt_llm.probe.behaviour --engine DIR --output FILE``
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from build_engine.tensorrt_llm.probe.findings import ProbeResult, judged, write
from contract import engine_dir
from contract.engine_dir import EngineInfo
from contract.sampling import Guide, Sampling
from serving.runtimes.base import EngineRequest, RuntimeOptions, SequenceDelta
from serving.runtimes.tensorrt_llm import runtime as tensorrt_llm

PROMPT = tuple(range(100, 116))
ANSWER_S, ABORT_S, DEATH_S, STREAMS = 60.0, 1.0, 5.0, 4
SEND = "send us probe.json"


class Session:
    """A loaded runtime, its answers and its death."""

    def __init__(self, engine: EngineInfo, *, scoring: bool = False) -> None:
        self.changed, self.deltas, self.death = threading.Condition(), dict[int, list[SequenceDelta]](), ""
        self._next = 0
        self.runtime = tensorrt_llm.create(engine, RuntimeOptions(), self._step, self._died, scoring=scoring)

    def _step(self, deltas: list[SequenceDelta]) -> None:
        with self.changed:
            for delta in deltas:
                self.deltas[delta.sequence_id].append(delta)
            self.changed.notify_all()

    def _died(self, reason: str) -> None:
        with self.changed:
            self.death = reason or "no reason"
            self.changed.notify_all()

    def start(self, prompt: Sequence[int] = PROMPT, **sampling: Any) -> int:
        self._next += 1
        self.deltas[self._next] = []
        wanted = Sampling(**({"max_tokens": 16, "temperature": 0.0, "ignore_eos": True} | sampling))
        self.runtime.submit(EngineRequest(self._next, list(prompt), wanted))
        return self._next

    def until(self, condition: Callable[[], object], seconds: float) -> bool:
        with self.changed:
            return bool(self.changed.wait_for(condition, seconds))

    def tokens(self, number: int) -> list[int]:
        return [token for delta in self.deltas[number] for token in delta.token_ids]

    def last(self, number: int) -> SequenceDelta | None:
        return next((delta for delta in self.deltas[number] if delta.finish_reason), None)

    def answer(self, prompt: Sequence[int] = PROMPT, **sampling: Any) -> tuple[list[int], str]:
        """Tokens and how it ended, ``error: …`` or ``nothing`` included."""
        number = self.start(prompt, **sampling)
        self.until(lambda: self.last(number) or self.death, ANSWER_S)
        last = self.last(number)
        return self.tokens(number), f"error: {last.error}" if last and last.error else str(last and last.finish_reason)


def examine(session: Session, long_prompt: int) -> Iterator[ProbeResult]:
    """Everything but death. ``long_prompt``: more tokens than one step of the engine takes; 0 skips that check."""
    capable = session.runtime.capabilities
    plain, reason = session.answer()
    yield judged("answers", len(plain) == 16 and reason == "length", f"{len(plain)} tokens, {reason}", SEND)
    if not plain:
        return
    stopped, reason = session.answer(ignore_eos=False, stop_token_ids=(plain[3],))
    wanted = plain[: plain.index(plain[3])]
    yield judged("stop id ends and is trimmed", stopped == wanted and reason == "stop", f"{stopped}, {reason}", SEND)
    if "seed" in capable:
        a, b, c = (session.answer(temperature=1.0, seed=seed)[0] for seed in (5, 5, 6))
        yield judged("a seed repeats, another differs", a == b != c, f"{a[:4]} {b[:4]} {c[:4]}", SEND, breaks=False)
    if "repetition_penalty" in capable:
        changed = session.answer(max_tokens=64, repetition_penalty=2.0)[0] != session.answer(max_tokens=64)[0]
        yield judged("a penalty acts", changed, "another answer" if changed else "the same answer", SEND, breaks=False)
    if long_prompt:
        text, reason = session.answer([100] * long_prompt, max_tokens=4)
        yield judged(f"a prompt of {long_prompt} tokens, more than a step", len(text) == 4, reason, SEND)
    if "guide:json_schema" in capable:
        guide = Guide("json_schema", '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}')
        reason = session.answer(guide=guide, max_tokens=64, ignore_eos=False)[1]
        yield judged("a JSON schema is taken", reason in ("stop", "length"), reason, SEND, breaks=False)
    yield abort(session)


def abort(session: Session) -> ProbeResult:
    number = session.start(max_tokens=1000)
    session.until(lambda: session.tokens(number), ANSWER_S)
    started = time.monotonic()
    session.runtime.abort(number)
    session.until(lambda: session.last(number), ANSWER_S)
    seconds, last = time.monotonic() - started, session.last(number)
    good = seconds < ABORT_S and last is not None and last.finish_reason == "cancelled"
    return judged("abort ends within 1 s", good, f"{seconds:.2f} s, {last and last.finish_reason}", SEND, breaks=False)


def entries(session: Session, wanted: int) -> ProbeResult:
    number = session.start(max_tokens=1, logprobs=wanted + 1)
    session.until(lambda: session.last(number) or session.death, ANSWER_S)
    tops = [top for delta in session.deltas[number] for top in delta.top_logprobs]
    count = len(tops[0]) if tops else 0
    return judged(f"logprobs={wanted}", count == wanted, f"{count} entries", "the accuracy gate will refuse: " + SEND)


def death(session: Session, streams: int) -> ProbeResult:
    """Kill a worker; ``children`` of this process are TensorRT-LLM's own (the guard is none of them)."""
    for _ in range(streams):
        session.start(max_tokens=4000)
    session.until(
        lambda: all(session.tokens(n) for n in list(session.deltas)[-streams:]) if streams else True, ANSWER_S
    )
    workers = worker_processes(session)
    if not workers:
        return ProbeResult("a killed worker is noticed", "differs", "no worker process: single-process mode", "")
    started = time.monotonic()
    workers[-1].kill()
    session.until(lambda: session.death, 2 * DEATH_S)
    seconds = time.monotonic() - started
    good = bool(session.death) and seconds < DEATH_S
    name = f"a killed worker is noticed within 5 s, {streams} streams"
    return judged(name, good, f"{session.death or 'nothing'} after {seconds:.1f} s", SEND)


def worker_processes(session: Session) -> list[psutil.Process]:
    children: tuple[int, ...] = session.runtime.children
    return [psutil.Process(pid) for pid in children if psutil.pid_exists(pid)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m build_engine.tensorrt_llm.probe.behaviour", description=__doc__)
    parser.add_argument("--engine", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--part", choices=("answers", "scores", "death-idle", "death-busy"), default="answers")
    args = parser.parse_args(argv)
    engine = engine_dir.read(args.engine)
    session = Session(engine, scoring=args.part == "scores")
    try:
        if args.part == "answers":
            longer = engine.limits.max_num_tokens + 100
            found = list(examine(session, longer if longer < engine.limits.max_input_len else 0))
        elif args.part == "scores":
            found = [entries(session, 5)]
        else:
            found = [death(session, 0 if args.part == "death-idle" else STREAMS)]
        write(found, args.output)
    finally:
        session.runtime.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
