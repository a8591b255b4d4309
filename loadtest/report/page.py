"""The HTML page: one file, no script, no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from loadtest.console import NAMES, milliseconds
from loadtest.record import FORMULAS
from loadtest.report.svg import Chart, render

RATES = {
    "requests_per_s": "requests per s",
    "tokens_per_s": "tokens per s",
    "goodput_per_s": "goodput per s",
    "tokens_per_message": "tokens per message",
}
COLUMNS = ("mean", "p50", "p75", "p90", "p95", "p99", "p99.9", "max")
STYLE = """
:root{color-scheme:light dark;--fg:#1a202c;--bg:#fff;--soft:#718096;--line:#e2e8f0}
@media(prefers-color-scheme:dark){:root{--fg:#e2e8f0;--bg:#171923;--soft:#a0aec0;--line:#2d3748}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);
 max-width:1180px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(480px,1fr));gap:1rem}
svg{width:100%;height:auto}svg text{fill:var(--fg);font:11px system-ui,sans-serif}
svg .title{font-weight:600;font-size:12.5px}
svg .tick{fill:var(--soft)}svg .grid{stroke:var(--line)}svg .mark{stroke:var(--soft);stroke-dasharray:3 3}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .7rem;border-bottom:1px solid var(--line)}
th{text-align:left;font-weight:600}td.n,th.n{text-align:right}.wide{overflow-x:auto}
.verdict{display:inline-block;padding:.3rem .8rem;border-radius:6px;font-weight:700;color:#fff}
.pass{background:#2f855a}.fail{background:#c05621}.invalid{background:#c53030}
.soft,.none{color:var(--soft)}pre{white-space:pre-wrap;overflow-wrap:anywhere}
"""


def page(title: str, parts: Sequence[str]) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )


def charts(items: Sequence[Chart]) -> str:
    return f'<div class="charts">{"".join(render(chart) for chart in items)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, words: int = 1) -> str:
    """The first ``words`` columns are text, the others are numbers."""
    top = "".join(f"<th{' class=n' if k >= words else ''}>{escape(str(name))}</th>" for k, name in enumerate(head))
    body = "".join(f"<tr>{''.join(_cell(value, k >= words) for k, value in enumerate(row))}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _cell(value: object, number: bool) -> str:
    return f"<td class=n>{escape(str(value))}</td>" if number else f"<td>{escape(str(value))}</td>"


def verdict(summary: dict[str, Any]) -> str:
    state = summary["verdict"]["state"]
    word = {"pass": "PASS", "fail": "LIMITS MISSED", "invalid": "INVALID: the generator was the bottleneck"}[state]
    if state == "invalid" and not any("worker" in r or "lag" in r for r in summary["verdict"]["reasons"]):
        word = "INVALID"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in summary["verdict"]["reasons"])
    return f'<p><span class="verdict {state}">{word}</span></p><ul>{reasons}</ul>'


def run_page(summary: dict[str, Any], items: Sequence[Chart]) -> str:
    plan = summary["plan"]
    load = f"{plan['users']} users, closed loop" if plan["loop"] == "closed" else f"open loop, {plan['arrivals']}"
    rate = f" at {plan['rate']:g}/s" if plan["rate"] else ""
    lead = f"{plan['scenario']} over {plan['transport']}; {load}{rate}; {summary['measured_s']:.4g} s "
    lead += f"after {plan['warmup']:g} s of warm-up; seed {plan['seed']}; started {summary['started']}"
    parts = [f'<p class="soft">{escape(lead)}</p>', verdict(summary)]
    parts += ["<h2>Latency, ms</h2>", _latency(summary), "<h2>Requests and tokens</h2>", _counts(summary)]
    parts += [_gateway(summary), charts(items), "<h2>How it is counted</h2>", _formulas(summary)]
    parts += ["<h2>The generator</h2>", _generator(summary), _environment(summary)]
    return page("Load test of a streaming LLM server", parts)


def _latency(summary: dict[str, Any]) -> str:
    rows = []
    for lane, figures in summary["lanes"].items():
        prefix = f"{lane} " if len(summary["lanes"]) > 1 else ""
        rows += [
            [prefix + NAMES[metric], row["count"], *(milliseconds(row[c]) for c in COLUMNS)]
            for metric, row in figures["latency"].items()
            if row["count"]
        ]
    return table(["", "count", *COLUMNS], rows)


def _counts(summary: dict[str, Any]) -> str:
    lanes = summary["lanes"] | ({"all": summary["total"]} if len(summary["lanes"]) > 1 else {})
    names = ("scheduled", "completed", "failed", "cancelled", "in_flight", "warmup", "prompt_tokens",
             "cached_tokens", "completion_tokens", "length_mismatches")  # fmt: skip
    rows: list[list[Any]] = [[n.replace("_", " "), *(f["counts"][n] for f in lanes.values())] for n in names]
    rows += [[label, *(_short(f[name]) for f in lanes.values())] for name, label in RATES.items()]
    kinds = sorted({kind for f in lanes.values() for kind in f["errors"]})
    rows += [[f"failed: {kind}", *(f["errors"].get(kind, 0) for f in lanes.values())] for kind in kinds]
    limits = summary["plan"]["slo"] or "none given"
    return table(["", *lanes], rows) + f'<p class="soft">limits: {escape(limits)}</p>'


def _gateway(summary: dict[str, Any]) -> str:
    if not summary["gateway_cost"]:
        return ""
    rows = [
        [
            f"{metric.upper()} {q}",
            milliseconds(v["difference"]),
            f"{milliseconds(v['low'])} … {milliseconds(v['high'])}",
        ]
        for metric, row in summary["gateway_cost"].items()
        for q, v in row.items()
    ]
    return "<h2>What the gateway costs (SSE − gRPC, same run)</h2>" + table(["ms", "difference", "95 % interval"], rows)


def _formulas(summary: dict[str, Any]) -> str:
    rows = [[NAMES[name], formula] for name, formula in FORMULAS.items()]
    rows.append(["goodput", "requests that ended within the window and meet every per-request limit, per second"])
    rows.append(["tokens", "as the server counted them; tokens/s is what arrived inside the window"])
    body = "".join(f"<tr><td>{escape(a)}</td><td>{escape(b)}</td></tr>" for a, b in rows)
    note = ""
    per_message = summary["total"]["tokens_per_message"]
    if per_message and per_message > 1.05:
        note = (
            f"<p>A message carried {per_message:.2f} tokens on average: ITL is not the time of one token, TPOT is.</p>"
        )
    return f"<table>{body}</table>{note}"


def _generator(summary: dict[str, Any]) -> str:
    generator = summary["generator"]
    rows = [
        [f"worker {w['worker']}", f"{w['cpu']:.0%}", milliseconds(w["loop_lag_p99"]), w["messages"]]
        for w in generator["workers"]
    ]
    cpu = generator["cpu_us_per_message"]
    note = f"<p class=soft>{cpu:.0f} µs of CPU per message; percentiles within 0.2 %</p>" if cpu else ""
    return table(["", "of one core", "loop lag p99, ms", "messages"], rows) + note


def _environment(summary: dict[str, Any]) -> str:
    facts = {**summary["environment"], "target": summary["target"], "plan": summary["plan"]}
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in facts.items())
    return f"<h2>Environment</h2><div class=wide><table>{rows}</table></div>"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
