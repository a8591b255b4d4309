"""Raise the rate until the limits break, then close in on the highest rate that meets them.

Each step is a complete run of its own in a fresh process: first doubling, then bisecting. A rate counts as met when the
run passed its limits *and* streams did not pile up; then the rate is raised further until they do, which is saturation.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import signal
import subprocess
from html import escape
from pathlib import Path

from client.language import language
from contract.handover import ctrl_c_waits
from loadtest import console, files
from loadtest.command import locust_command
from loadtest.errors import EXIT_INVALID, EXIT_LIMITS_MISSED, EXIT_OK, EXIT_USAGE, LoadtestError
from loadtest.notes import short_window
from loadtest.plan import RunPlan, plan_of_command
from loadtest.preflight import check_target
from loadtest.progress import START_S, Progress, clock
from loadtest.rate_search import BEYOND, MAX_BEYOND, MAX_STEPS, RateStep, search, step_of
from loadtest.report import page
from loadtest.report.sentences import sentences
from loadtest.report.svg import Chart, Series
from loadtest.report.words import words
from serving.host.signals import Terminal

USUAL = (7, 12)  # rates, to find a limit of up to 40 times the first rate
STOPPED = {  # by the cause of an invalid run
    "generator": "the generator became the bottleneck",
    "machine": "the generator's machine became the bottleneck",
    "stop": "the generator was stopped for a while",
    "counts": "counts did not add up",
}
UNTRIED = "no higher rate was tried"


def _checked_plan(options: argparse.Namespace) -> RunPlan:
    """The plan of the first rate. Raises ``LoadtestError`` for a run that cannot be swept."""
    plan = plan_of_command(vars(options))
    if not plan.slo:
        raise LoadtestError("slo: a sweep needs limits to break: add SLO=ttft=200ms,tpot=50ms")
    if plan.requests is not None:
        raise LoadtestError(
            "requests: a sweep measures each rate for DURATION, so that streams can pile up: drop REQUESTS"
        )
    if plan.process.kind == "trace":
        raise LoadtestError(
            f"scenario: {plan.scenario} has its own times, and a sweep sets the rate: add ARRIVALS=poisson"
        )
    if options.ui:
        raise LoadtestError("ui: a sweep runs without the web UI, which would wait for a click: drop --ui")
    assert plan.rate is not None
    if options.max_rate is not None and plan.rate > options.max_rate:
        raise LoadtestError(
            f"max-rate: {options.max_rate:g} is below the first rate, {plan.rate:g}: raise it or lower RATE"
        )
    return plan


def sweep(options: argparse.Namespace) -> int:
    """Search for the highest rate within the limits, print and write what was found. Returns the exit code."""
    options.rate = options.rate or "1"
    plan = _checked_plan(options)
    assert plan.rate is not None
    check_target(plan)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    terminal, closes = Terminal(), signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    if closes:  # a run ends in order when its terminal closes, and between two of them ``run`` looks
        signal.signal(signal.SIGHUP, lambda *_: None)
    directory = Path(options.out) if options.out else files.fresh("sweep")

    steps: list[RateStep] = []
    progress = Progress(START_S + plan.end, MAX_STEPS + MAX_BEYOND)
    console.show(outline(plan, options.max_rate))

    def run(rate: float) -> RateStep:
        if closes and terminal.has_ended_us():
            raise KeyboardInterrupt
        options.rate, options.out = f"{rate:g}", str(directory / f"rate-{rate:g}")
        progress.begin(rate)
        try:
            with ctrl_c_waits():
                process = subprocess.Popen(locust_command(options), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            done = _finish(process, progress)
        finally:
            progress.end()
        path = Path(options.out) / "summary.json"
        if done == EXIT_USAGE or not path.is_file():
            raise LoadtestError(f"rate {rate:g}/s: the run ended with code {done} and without a report")
        summary = json.loads(path.read_text(encoding="utf-8"))
        if summary["interrupted"]:
            raise KeyboardInterrupt
        steps.append(step_of(rate, summary))
        console.show(_line(steps[-1]))
        if len(steps) == 1:
            _warn(steps)  # before hours of it
        return steps[-1]

    complete = False
    try:
        search(run, plan.rate, options.max_rate, lambda rate: dataclasses.replace(plan, rate=rate).planned > 0)
        complete = True
    finally:  # Ctrl-C or a server that died: what was measured until then is kept
        if steps:
            _write(directory, plan.slo, steps, complete)
            console.show(conclusion(steps, complete))
            _warn(steps)
            console.show(f"report: {directory / 'sweep.html'}")
    if steps[-1].invalid:
        return EXIT_INVALID
    return EXIT_OK if any(s.met for s in steps) else EXIT_LIMITS_MISSED


def outline(plan: RunPlan, highest: float | None) -> str:
    """What the sweep is going to do. Which rates it takes depends on what it finds."""
    assert plan.rate is not None
    rates = [plan.rate * 2**k for k in range(3) if highest is None or plan.rate * 2**k <= highest]
    shortest, longest = START_S + plan.end, START_S + plan.end + plan.drain
    few, many = USUAL
    usual = f"usually {few} to {many} rates, {clock(few * shortest)} to {clock(many * longest)} min; "
    return (
        f"plan: {', '.join(f'{rate:g}' for rate in rates)} … requests/s{f', at most {highest:g},' if highest else ''} "
        f"until the limits {plan.slo} break; then between the last two; then × {BEYOND:g} until streams pile up\n"
        f"each rate: {plan.warmup:g} s of warm-up, {plan.duration:g} s measured, up to {plan.drain:g} s for the last "
        f"answers: {shortest:.0f} to {longest:.0f} s\n"
        f"in all: {'' if highest else usual}at most {MAX_STEPS + MAX_BEYOND} rates; Ctrl-C keeps what was measured"
    )


def _finish(run: subprocess.Popen[bytes], progress: Progress) -> int:
    """The run's exit code. Ctrl-C reaches the run as well: it ends in order, and the sweep with it."""
    try:
        while run.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(1.0)
            progress.tick()
        return run.returncode
    except KeyboardInterrupt:
        with contextlib.suppress(KeyboardInterrupt):  # a second one ends the run at once
            run.wait()
        raise


def _short(steps: list[RateStep]) -> str:
    """At the lowest rate: at a higher one answers may be long because requests wait, and that is what a sweep finds."""
    summary = min(steps, key=lambda s: s.rate).summary
    return short_window(summary["plan"]["duration"], summary["total"]["latency"]["e2e"]["p50"])


def _warn(steps: list[RateStep]) -> None:
    if short := _short(steps):
        console.show(f"note: {short}")


def conclusion(steps: list[RateStep], complete: bool = True) -> str:
    met = max((s.rate for s in steps if s.met), default=None)
    full = min((s.rate for s in steps if s.saturated and not s.invalid), default=None)
    text = "no rate met the limits" if met is None else f"highest rate that meets the limits: {met:g} requests/s"
    text = "no run was valid, which says nothing about the server" if all(s.invalid for s in steps) else text
    text += f"; saturates at {full:g} requests/s" if full is not None else "; no saturation seen"
    text += f"; {UNTRIED}" if met == max(s.rate for s in steps) else ""
    text += "" if complete else "; ended before it had found the limit"
    return text + (f"; stopped because {STOPPED[steps[-1].summary['verdict']['cause']]}" if steps[-1].invalid else "")


def _cell(step: RateStep, metric: str, q: str) -> str:
    return console.percentile(step.summary["total"]["latency"][metric], q)


def _percentile(step: RateStep, metric: str, q: str) -> float | None:
    value = step.summary["total"]["latency"][metric][q]
    return None if value is None else float(value)


def _cells(step: RateStep) -> list[str]:
    total = step.summary["total"]
    word = "INVALID" if step.invalid else "met" if step.met else "saturated" if step.saturated else "missed"
    latencies = [("ttft_sched", "p50"), ("ttft_sched", "p99"), ("tpot", "p50"), ("tpot", "p99")]
    return [
        *(_cell(step, *which) for which in latencies),
        console.per_second(total["goodput_per_s"]),
        f"{total['tokens_per_s']:.0f}",
        word,
    ]


HEAD = ("requests/s", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "goodput/s", "tokens/s", "limits")


def _line(step: RateStep) -> str:
    cells = zip(HEAD, [f"{step.rate:g}", *_cells(step)], strict=True)
    return "  ".join(f"{name} {value}" for name, value in cells)


def _write(directory: Path, slo: str, steps: list[RateStep], complete: bool) -> None:
    ordered = sorted(steps, key=lambda s: s.rate)
    data = {
        "schema": "qwen-triton/loadtest-sweep/1",
        "slo": slo,
        "complete": complete,
        "highest_rate_met": max((s.rate for s in steps if s.met), default=None),
        "saturates_at": min((s.rate for s in steps if s.saturated and not s.invalid), default=None),
        "steps": [s.summary | {"rate": s.rate, "met": s.met, "saturated": s.saturated} for s in ordered],
    }
    say, sentence = words(language()), sentences(language())
    lead = sentence(f"limits {slo}; {ordered[0].summary['plan']['duration']:g} s at each rate")
    found = "; ".join(map(sentence, conclusion(steps, complete).split("; ")))
    parts = [
        f'<p class="soft">{escape(lead)}</p>',
        f"<p><b>{escape(found)}</b></p>",
        f'<p class="soft">{escape(sentence(short))}</p>' if (short := _short(steps)) else "",
        page.table([*map(say, HEAD)], [[f"{s.rate:g}", *_cells(s)] for s in ordered]),
        page.charts(_charts(ordered), say),
    ]
    html = page.page("How much load it takes", parts, language())
    files.write(directory, {"sweep.json": files.as_json(data), "sweep.html": html})


def _charts(steps: list[RateStep]) -> list[Chart]:
    def latency(metric: str, q: str) -> Series:
        points = [(s.rate, v * 1e3) for s in steps if (v := _percentile(s, metric, q)) is not None]
        return Series(q, points)

    def total(name: str, label: str) -> Series:
        found = [(s.rate, value) for s in steps if (value := s.summary["total"][name]) is not None]
        return Series(label, [(rate, float(value)) for rate, value in found])

    met = max((s.rate for s in steps if s.met), default=None)
    mark = [("x", met, "limits met up to here")] if met is not None else []
    x, three = "requests per second", ("p50", "p95", "p99")
    rates = [s for s in (total("goodput_per_s", "goodput"), total("requests_per_s", "completed")) if s.points]
    rates.append(Series("offered", [(s.rate, s.rate) for s in steps], dashed=True))
    ttft, tpot = ([latency(metric, q) for q in three] for metric in ("ttft_sched", "tpot"))
    return [
        Chart("TTFT against rate", x, "ms (log)", ttft, log_y=True, lines=mark),
        Chart("TPOT against rate", x, "ms", tpot, lines=mark),
        Chart("Goodput and throughput", x, "requests/s", rates, lines=mark),
        Chart("Output tokens per second", x, "tokens/s", [total("tokens_per_s", "tokens/s")], lines=mark),
    ]
