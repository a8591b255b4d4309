"""Check one loaded engine for what the adapter relies on, in its own process: TensorRT-LLM does not unload cleanly.

``python3 -m build_engine.tensorrt_llm.probe.behaviour --engine DIR --output FILE``
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from build_engine.tensorrt_llm.probe.findings import ProbeResult, judged, write
from build_engine.tensorrt_llm.probe.session import ANSWER_S, Session
from contract import engine_dir
from contract.arguments import Arguments
from contract.sampling import Guide

ABORT_S, DEATH_S, STREAMS = 1.0, 5.0, 4
SEND = "send us probe.json"
DIGITS = "[0-9]{1,8}"
SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false}'
# An object of SCHEMA or the beginning of one: with random weights the answer may not reach its end.
BEGINNING = r'\s*\{\s*(?:"(?:a(?:"\s*(?::\s*(?:-?\d*(?:\s*\}\s*)?)?)?)?)?)?'
USED, TOTAL = "usedNumBlocks", "maxNumBlocks"  # serving/runtimes/tensorrt_llm/statistics.py


def examine(session: Session, long_prompt: int) -> Iterator[ProbeResult]:
    """All checks except killing workers. ``long_prompt``: more tokens than one step takes; 0 skips that check."""
    capable = session.runtime.capabilities
    plain, reason = session.answer()
    yield judged("answers", len(plain) == 16 and reason == "length", f"{len(plain)} tokens, {reason}", SEND)
    if not plain:
        return
    yield from endings(session, plain)
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
        yield guided(session, "a regex is kept to", Guide("regex", DIGITS), DIGITS)
        yield guided(session, "a JSON schema is kept to", Guide("json_schema", SCHEMA), BEGINNING)
    else:
        found = "the runtime saw at load that a guide is not kept to"
        yield ProbeResult("guides", "differs", found, f"JSON schema, regex and grammar are refused here; {SEND}")
    if "logprobs" in capable:
        yield entries(session, 5, 5 if "top_logprobs" in capable else 1)
    yield statistics(session)
    yield abort(session)


def endings(session: Session, plain: Sequence[int]) -> Iterator[ProbeResult]:
    """``plain``: the engine's answer when nothing ends it."""
    end, wanted = plain[3], list(plain[: plain.index(plain[3])])
    other = next(token for token in range(1000) if token not in plain)
    for check, ids in (("the end id ends", (end,)), ("another stop id ends", (other, end))):
        stopped, reason = session.answer(ignore_eos=False, stop_token_ids=ids)
        good = stopped == wanted and reason == "stop"
        yield judged(f"{check} an answer and is not in it", good, f"{stopped}, {reason}; wanted {wanted}", SEND)
    kept = session.raw_ids(end)[-1:] == [end]
    expected = session.engine.runtime.backend == "pytorch"
    found = "TensorRT-LLM keeps it" if kept else "TensorRT-LLM drops it"
    yield judged("the end token in TensorRT-LLM's ids", kept == expected, found, "none: the adapter takes both",
                 breaks=False)  # fmt: skip


def guided(session: Session, check: str, guide: Guide, pattern: str) -> ProbeResult:
    ends = engine_dir.end_ids(session.engine.path)
    tokens, reason = session.answer(guide=guide, max_tokens=64, ignore_eos=False, stop_token_ids=ends)
    text = session.text(tokens)
    good = bool(text.strip()) and re.fullmatch(pattern, text) is not None
    remedy = f"ask for no schema, regex or grammar on this backend; {SEND}"
    return judged(check, good, f"{text[:60]!r}, {reason}", remedy)


def statistics(session: Session) -> ProbeResult:
    number = session.start(max_tokens=200)
    session.until(lambda: session.tokens(number), ANSWER_S)
    record = session.statistics()
    session.runtime.abort(number)
    missing = [key for key in (USED, TOTAL) if key not in (record.get("kvCacheStats") or {})]
    found = f"no {' and no '.join(missing)}" if missing else f"{len(record)} keys"
    return judged("statistics have the KV cache", not missing, found, f"the gauges stay at 0; {SEND}", breaks=False)


def abort(session: Session) -> ProbeResult:
    number = session.start(max_tokens=1000)
    session.until(lambda: session.tokens(number), ANSWER_S)
    started = time.monotonic()
    session.runtime.abort(number)
    session.until(lambda: session.last(number), ANSWER_S)
    seconds, last = time.monotonic() - started, session.last(number)
    good = seconds < ABORT_S and last is not None and last.finish_reason == "cancelled"
    return judged("abort ends within 1 s", good, f"{seconds:.2f} s, {last and last.finish_reason}", SEND, breaks=False)


def entries(session: Session, asked: int, expected: int) -> ProbeResult:
    """Log probabilities per token: the gate needs as many as it asks for; ``TRTLLMSampler`` is known to give one."""
    number = session.start(max_tokens=1, logprobs=asked + 1)
    session.until(lambda: session.last(number) or session.death, ANSWER_S)
    tops = [top for delta in session.deltas[number] for top in delta.top_logprobs]
    count = len(tops[0]) if tops else 0
    remedy = "the accuracy gate will refuse: " + SEND if expected == asked else SEND
    return judged(f"logprobs={asked} gives {expected}", count == expected, f"{count} entries", remedy,
                  breaks=count < expected)  # fmt: skip


def death(session: Session, streams: int) -> ProbeResult:
    """Kill a worker; ``children`` of this process are TensorRT-LLM's own (the guard is none of them)."""
    for _ in range(streams):
        session.start(max_tokens=4000)
    session.until(
        lambda: all(session.tokens(n) for n in list(session.deltas)[-streams:]) if streams else True, ANSWER_S
    )
    workers = [psutil.Process(pid) for pid in session.runtime.loaded.children if psutil.pid_exists(pid)]
    if not workers:
        return ProbeResult("a killed worker is noticed", "differs", "no worker process: single-process mode", "")
    started = time.monotonic()
    workers[-1].kill()
    session.until(lambda: session.death, 2 * DEATH_S)
    seconds = time.monotonic() - started
    good = bool(session.death) and seconds < DEATH_S
    name = f"a killed worker is noticed within 5 s, {streams} streams"
    return judged(name, good, f"{session.death or 'nothing'} after {seconds:.1f} s", SEND)


def rows(session: Session, part: str) -> Iterator[ProbeResult]:
    limits = session.engine.limits
    longer = limits.max_num_tokens + 100
    if part == "answers":
        yield from examine(session, longer if longer < limits.max_input_len else 0)
    elif part == "scores":
        yield entries(session, 5, 5)
    else:
        yield death(session, 0 if part == "death-idle" else STREAMS)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Arguments(prog="python3 -m build_engine.tensorrt_llm.probe.behaviour", description=__doc__)
    parser.add_argument("--engine", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--part", choices=("answers", "scores", "death-idle", "death-busy"), default="answers")
    args = parser.parse_args(argv)
    session = Session(engine_dir.read(args.engine), scoring=args.part == "scores")
    found: list[ProbeResult] = []
    try:
        for row in rows(session, args.part):
            found.append(row)
            write(found, args.output)  # what was found so far outlives a crash
    except Exception as error:  # noqa: BLE001  # whatever TensorRT-LLM raises is the finding
        found.append(
            ProbeResult(f"the check after these {len(found)}", "fail", f"{type(error).__name__}: {error}", SEND)
        )
        write(found, args.output)
    finally:
        session.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
