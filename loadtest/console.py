"""What a run says on the terminal."""

from __future__ import annotations

import os
import sys
from typing import Any

from loadtest.aggregate import Lane
from loadtest.stats import is_longest

COLUMNS = ("p50", "p90", "p95", "p99", "p99.9", "max")
NAMES = {
    "ttft_sched": "TTFT from schedule", "ttft": "TTFT from send", "e2e_sched": "E2E from schedule",
    "e2e": "E2E from send", "tpot": "TPOT", "itl": "ITL", "lag": "schedule lag",
}  # fmt: skip
MET = {True: "met", False: "missed", None: "not judged: the run is invalid"}


def show(text: str, end: str = "\n") -> None:
    """The one place that writes to the terminal. What its encoding lacks is replaced, and nobody need be reading."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), end=end, flush=True)
    except OSError:  # `| head`, a full disk: the run goes on, and its report is written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    text = f"{value * 1e3:.1f}" if abs(value) < 10 else f"{value * 1e3:.0f}"
    return "0.0" if text == "-0.0" else text


def percentile(row: dict[str, Any], column: str) -> str:
    """A cell of a table of latencies, in milliseconds; ``*`` marks a percentile that is the largest of few values."""
    percent = float(column[1:]) if column.startswith("p") else 0.0
    return milliseconds(row[column]) + "*" * is_longest(row["count"], percent)


def per_second(value: float | None) -> str:
    """A rate that there may be none of: goodput without a limit on single requests."""
    return "-" if value is None else f"{value:.2f}"


def live_line(second: float, total: Lane, running: int) -> str:
    c, ttft = total.counts, total.histograms["ttft_sched"]
    recent = [total.per_second.get(int(second) - k, 0) for k in (2, 3, 4)]
    return (
        f"{second:6.0f} s  running {running:4d}  done {c['completed']:6d}  failed {c['failed']:4d}  "
        f"{sum(recent) / 3:7.0f} tokens/s  TTFT p50 {milliseconds(ttft.percentile(50))} "
        f"{'max' if is_longest(ttft.count, 99) else 'p99'} {milliseconds(ttft.percentile(99))} ms"
    )


def summary_text(summary: dict[str, Any]) -> str:
    plan = summary["plan"]
    load = f"{plan['arrivals']} at {plan['rate']:g}/s" if plan["rate"] else plan["arrivals"]
    load = f"{plan['users']} users" if plan["loop"] == "closed" else load
    lines = [f"\n{plan['scenario']} over {plan['transport']}, {load}, {_length(summary)}, seed {plan['seed']}"]
    lanes = summary["lanes"] if len(summary["lanes"]) > 1 else {plan["transport"]: summary["total"]}
    for name, figures in lanes.items():
        lines += _lane(name, figures, figures.get("error_examples", summary["error_examples"]))
    lines += _gateway(summary["gateway_cost"])
    lines += _closing(summary)
    return "\n".join(lines)


def _length(summary: dict[str, Any]) -> str:
    plan, measured = summary["plan"], summary["measured_s"]
    if plan["requests"] is not None:
        sent = f"{summary['total']['counts']['scheduled']} of {plan['requests']} requests in {measured:.1f} s"
        return f"interrupted after {sent}" if summary["interrupted"] else sent
    planned = f"{plan['duration']:g} s"
    return f"interrupted after {measured:.1f} of {planned}" if summary["interrupted"] else planned


def _lane(name: str, figures: dict[str, Any], examples: dict[str, str]) -> list[str]:
    c = figures["counts"]
    return [
        f"\n{name + ', ms':22s}" + "".join(f"{column:>10s}" for column in COLUMNS),
        *(
            f"{NAMES[metric]:22s}" + "".join(f"{percentile(row, column):>10s}" for column in COLUMNS)
            for metric, row in figures["latency"].items()
            if row["count"]
        ),
        f"{c['scheduled']} scheduled = {c['completed']} completed + {c['failed']} failed + {c['cancelled']} cancelled "
        f"+ {c['in_flight']} in flight; {figures['requests_per_s']:.2f} requests/s, {figures['tokens_per_s']:.0f} "
        f"tokens/s{_goodput(figures)}",
        *_cached(c),
        *(f"  {count} × {kind}{_example(examples.get(kind))}" for kind, count in figures["errors"].items()),
    ]


def _goodput(figures: dict[str, Any]) -> str:
    """Nothing without a limit on single requests."""
    rate = figures["goodput_per_s"]
    return "" if rate is None else f", goodput {rate:.2f}/s; {figures['counts']['good']} met every per-request limit"


def _cached(c: dict[str, int]) -> list[str]:
    share = c["cached_tokens"] / max(1, c["prompt_tokens"])
    return [f"{c['prompt_tokens']} prompt tokens, {share:.0%} of them from the cache"] if share else []


def _example(text: str | None) -> str:
    return f": {text[:120]}" if text else ""


def _gateway(cost: dict[str, Any] | None) -> list[str]:
    return [
        f"gateway cost, {metric.upper()} {q}: {milliseconds(v['difference'])} ms"
        + (
            f", which proves nothing: {v['grpc']} gRPC and {v['sse']} SSE requests, "
            f"and a {q} takes {v['needed']} of each"
            if v["few"]
            else f" (95 % interval {milliseconds(v['low'])} … {milliseconds(v['high'])})"
        )
        for metric, row in (cost or {}).items()
        for q, v in row.items()
    ]


def _closing(summary: dict[str, Any]) -> list[str]:
    generator, verdict = summary["generator"], summary["verdict"]
    cpu = generator["cpu_us_per_message"]
    lines = ["generator: " + ", ".join(
        f"worker {w['worker']} {w['cpu']:.0%} of a core, loop lag p99 {milliseconds(w['loop_lag_p99'])} ms "
        f"(machine {w['machine']:.0%} busy)"
        for w in generator["workers"]
    ) + (f", {cpu:.0f} µs CPU per message" if cpu else "")]  # fmt: skip
    if summary["saturation"]["saturated"]:
        lines.append("saturated: streams pile up, latencies would grow with a longer run")
    server = summary["server"]
    if server and server["we_left"] and server["streams_freed"] is not None:
        lines.append(f"users who left: {server['we_left']}; streams the server freed: {server['streams_freed']}")
    lines += [f"note: {note}" for note in summary["notes"]]
    lines += _limits(summary["limits"])
    return [*lines, f"verdict: {verdict['state'].upper()}", *(f"  {reason}" for reason in verdict["reasons"])]


def _limits(rows: list[dict[str, Any]]) -> list[str]:
    """Each limit with what was measured. An invalid run shows it too, and judges nothing."""
    return ["limits:"] * bool(rows) + [
        f"  {r['limit']:26s} {r['measured']:>14s}  {MET[r['met']]}{_noted(r)}" for r in rows
    ]


def _noted(row: dict[str, Any]) -> str:
    return f" ({row['note']})" if "note" in row else ""
