"""The page of one run: the verdict and the figures first, then what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from loadtest.console import NAMES, milliseconds, per_second, percentile
from loadtest.notes import FEW
from loadtest.record import FORMULAS
from loadtest.report import page as html
from loadtest.report.sentences import sentences
from loadtest.report.svg import Chart
from loadtest.report.words import Say, words
from loadtest.stats import is_longest

RATES = {
    "requests_per_s": "requests per s",
    "tokens_per_s": "tokens per s",
    "goodput_per_s": "goodput per s",
    "tokens_per_message": "tokens per message",
}
COUNTS = (
    "scheduled", "completed", "failed", "cancelled", "in_flight", "warmup", "prompt_tokens", "cached_tokens",
    "completion_tokens", "length_mismatches", "uncounted",
)  # fmt: skip
COLUMNS = ("mean", "p50", "p75", "p90", "p95", "p99", "p99.9", "max")
WIRES = {"grpc": "gRPC", "sse": "SSE", "both": "gRPC and SSE"}
BOTTLENECKS = {
    "generator": "INVALID: the generator was the bottleneck",
    "machine": "INVALID: the generator's machine was the bottleneck",
}
MET = {True: "yes", False: "no", None: "not judged"}
CHANCE = "the interval holds 0: this run is too short or too noisy to tell the two apart"


def run_page(summary: dict[str, Any], items: Sequence[Chart], language: str = "en") -> str:
    say, sentence = words(language), sentences(language)
    sections = [
        ("Limits", _limits(summary, sentence)),
        ("Latency, ms", _latency(summary, say)),
        ("What the gateway costs (SSE − gRPC, same run)", _gateway(summary, say)),
        ("Charts", html.charts(items, say)),
        ("Requests and tokens", _counts(summary, say)),
        ("How it is counted", _formulas(summary, sentence)),
        ("The generator", _generator(summary, sentence)),
        ("The server", _server(summary, say)),
        ("Environment", _environment(summary, say)),
    ]
    lead = "; ".join(map(sentence, _lead(summary)))
    head = [f'<p class="soft">{escape(lead)}</p>', _verdict(summary, sentence), _cards(summary, say)]
    body = [f"<h2>{escape(say(title))}</h2>{part}" for title, part in sections if part]
    return html.page("Load test of a streaming LLM server", head + body, language)


def _lead(summary: dict[str, Any]) -> list[str]:
    plan = summary["plan"]
    load = f"{plan['users']} users, closed loop" if plan["loop"] == "closed" else f"open loop, {plan['arrivals']}"
    rate = f" at {plan['rate']:g}/s" if plan["rate"] else ""
    length = f"{summary['measured_s']:.4g} s after {plan['warmup']:g} s of warm-up"
    over = f"{plan['scenario']} over {WIRES[plan['transport']]}"
    return [*_served(summary["target"]), over, load + rate, length, f"started {summary['started']}"]


def _served(target: str | dict[str, Any]) -> list[str]:
    """The model by the name that says most: the gateway's is the checkpoint's, Triton's is ``qwen``."""
    parts = target.values() if isinstance(target, dict) else ()
    names = [part["model"] for part in parts if isinstance(part, dict) and part.get("model")]
    return [f"model {names[-1]}"] if names else []


def _verdict(summary: dict[str, Any], say: Say) -> str:
    state = summary["verdict"]["state"]
    word = {"pass": "PASS", "fail": "LIMITS MISSED", "invalid": "INVALID"}[state]
    if (cause := summary["verdict"]["cause"]) in BOTTLENECKS:
        word = BOTTLENECKS[cause]
    reasons = "".join(f"<li>{escape(say(reason))}</li>" for reason in summary["verdict"]["reasons"])
    notes = "".join(f'<p class="soft">{escape(say(note))}</p>' for note in summary["notes"])
    return f'<p><span class="verdict {state}">{escape(say(word))}</span></p>' + (
        f"<ul>{reasons}</ul>{notes}" if reasons else notes
    )


def _cards(summary: dict[str, Any], say: Say) -> str:
    total = summary["total"]
    counts, latency = total["counts"], total["latency"]

    def timed(metric: str, name: str) -> tuple[str, str, str]:
        row = latency[metric]
        tail = f"{say('longest of')} {row['count']}:" if is_longest(row["count"], 99) else "p99"
        return f"{milliseconds(row['p50'])} ms", f"{name} p50", f"{tail} {milliseconds(row['p99'])} ms"

    judged, goodput = counts["scheduled"] - counts["cancelled"], total["goodput_per_s"]
    share = f"{counts['good'] / judged:.0%} {say('met')}" if judged and goodput is not None else ""
    return html.cards(
        [
            timed("ttft_sched", "TTFT"),
            timed("tpot", "TPOT"),
            timed("itl", "ITL"),
            (f"{total['tokens_per_s']:,.0f}", say("output tokens/s"), ""),
            *([(per_second(goodput), say("goodput/s"), share)] if goodput is not None else []),
            (f"{counts['failed']}", say("failed"), f"{say('of')} {counts['scheduled']}"),
        ]
    )


def _limits(summary: dict[str, Any], say: Say) -> str:
    rows = [
        [say(x["limit"]), x["measured"] + (f" ({say(x['note'])})" if "note" in x else ""), say(MET[x["met"]])]
        for x in summary["limits"]
    ]
    return html.table([say("limit"), say("measured"), say("met")], rows) if rows else ""


def _latency(summary: dict[str, Any], say: Say) -> str:
    rows: list[list[Any]] = []
    for lane, figures in summary["lanes"].items():
        rows += [[lane]] if len(summary["lanes"]) > 1 else []
        rows += [
            [say(NAMES[metric]), row["count"], *(percentile(row, c) for c in COLUMNS)]
            for metric, row in figures["latency"].items()
            if row["count"]
        ]
    return html.table(["", say("count"), *map(say, COLUMNS)], rows)


def _counts(summary: dict[str, Any], say: Say) -> str:
    lanes = summary["lanes"] | ({"all": summary["total"]} if len(summary["lanes"]) > 1 else {})
    rows: list[list[Any]] = [[say(n.replace("_", " ")), *(f["counts"][n] for f in lanes.values())] for n in COUNTS]
    rows += [
        [say(label), *(per_second(f[name]) for f in lanes.values())]
        for name, label in RATES.items()
        if summary["total"][name] is not None
    ]
    kinds = sorted({kind for f in lanes.values() for kind in f["errors"]})
    for kind in kinds:
        said = dict.fromkeys(f.get("error_examples", summary["error_examples"]).get(kind, "") for f in lanes.values())
        example = "; ".join(filter(None, said))  # of each transport, whose addresses differ
        label = f"{say('failed')}: {kind}" + f": {example}" * bool(example)
        rows.append([label, *(f["errors"].get(kind, 0) for f in lanes.values())])
    return html.table(["", *map(say, lanes)], rows)


def _gateway(summary: dict[str, Any], say: Say) -> str:
    if not summary["gateway_cost"]:
        return ""
    rows, chance, few = [], False, False
    for metric, row in summary["gateway_cost"].items():
        for q, v in row.items():
            certain = v["low"] > 0 or v["high"] < 0
            few |= v["few"]
            chance |= not certain and not v["few"]
            said = say("too few" if v["few"] else "yes" if certain else "no")
            interval = f"{milliseconds(v['low'])} … {milliseconds(v['high'])}"
            rows.append([f"{metric.upper()} {q}", milliseconds(v["difference"]), interval, said])
    head = ["ms", say("difference"), say("95 % interval"), say("beyond chance")]
    notes = [say(CHANCE)] * chance + [say(FEW)] * few
    return html.table(head, rows) + "".join(f'<p class="soft">{note}</p>' for note in notes)


def _formulas(summary: dict[str, Any], say: Say) -> str:
    rows = [(say(NAMES[name]), say(formula)) for name, formula in FORMULAS.items()]
    rows.append((
        say("goodput"), say("requests that ended within the window and meet every per-request limit, per second")
    ))  # fmt: skip
    rows.append(("tokens", say("as the server counted them; tokens/s is what arrived inside the window")))
    per_message = summary["total"]["tokens_per_message"]
    note = f"A message carried {per_message or 0:.2f} tokens on average: ITL is not the time of one token, TPOT is."
    return html.facts(rows) + (f"<p>{say(note)}</p>" if per_message and per_message > 1.05 else "")


def _generator(summary: dict[str, Any], say: Say) -> str:
    generator = summary["generator"]
    rows = [
        [
            say(f"worker {w['worker']}"),
            f"{w['cpu']:.0%}",
            milliseconds(w["loop_lag_p99"]),
            milliseconds(w["own_lag_p99"]),
            f"{w['queued']:.0%}",
            f"{w['machine']:.0%}",
            w["messages"],
        ]
        for w in generator["workers"]
    ]
    cpu = generator["cpu_us_per_message"]
    cost = say(f"{cpu:.0f} µs of CPU per message; percentiles within 0.02 %") if cpu else ""
    note = f'<p class="soft">{cost}</p>' if cpu else ""
    head = [
        "",
        say("of one core"),
        say("loop lag p99, ms"),
        say("by its own work"),
        say("waited for a core"),
        say("machine busy"),
    ]
    return html.table([*head, say("messages")], rows) + note


def _server(summary: dict[str, Any], say: Say) -> str:
    server = summary["server"]
    if not server:
        return ""
    rows = []
    for name, peak in server["peak"].items():
        known = {"kv": ("KV cache in use", f"{peak:.1%}")}
        label, figure = known.get(name, (name, f"{peak:g}"))
        rows.append([say(label), figure])
    return html.table(["", say("highest")], rows)


def _environment(summary: dict[str, Any], say: Say) -> str:
    facts = dict(summary["environment"])
    facts["memory"] = f"{facts.pop('memory_gib', '?')} GiB"
    facts["gpu"] = facts.get("gpu") or say("none")
    target = summary["target"]
    facts["target"] = (
        target if isinstance(target, str) else "; ".join(f"{k}: {html.inline(v)}" for k, v in target.items())
    )
    facts["settings"] = summary["plan"]
    return html.facts([(say(name), html.inline(value)) for name, value in facts.items()])
