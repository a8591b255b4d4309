"""The shell of an HTML page and its parts: one file, no script, no network, readable as a mail attachment."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from loadtest.report.svg import ON_DARK, Chart, render
from loadtest.report.words import ENGLISH, Say, words

STYLE = """
:root{color-scheme:light dark;--fg:#1a202c;--bg:#fff;--card:#f7fafc;--soft:#5a6678;--line:#e2e8f0}
@media(prefers-color-scheme:dark){:root{--fg:#e2e8f0;--bg:#171923;--card:#1f2430;--soft:#a0aec0;--line:#2d3748;
 DARK}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,"Noto Sans CJK SC",sans-serif;color:var(--fg);background:var(--bg);
 max-width:1180px;margin:1.5rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .6rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.7rem;margin:1rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.55rem .8rem}
.card b{display:block;font-size:1.35rem;line-height:1.3;font-variant-numeric:tabular-nums}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr));gap:1.2rem 1rem;margin-top:1rem}
figure{margin:0;min-width:0}figcaption{font-weight:600;font-size:.9rem}
.legend{display:flex;flex-wrap:wrap;gap:.1rem .9rem;font-size:.8rem;color:var(--soft)}
.legend i{display:inline-block;width:16px;border-top:3px solid;margin-right:.35rem;vertical-align:middle}
.legend i.dashed{border-top-style:dashed}
svg{width:100%;height:auto;display:block}svg text{fill:var(--fg);font:11px system-ui,sans-serif}
svg .tick{fill:var(--soft)}svg .grid{stroke:var(--line)}svg .mark{stroke:var(--soft);stroke-dasharray:3 3}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .7rem;border-bottom:1px solid var(--line);white-space:nowrap}
th{text-align:left;font-weight:600}td.n,th.n{text-align:right}
td:first-child,th:first-child{position:sticky;left:0;background:var(--bg)}
tr.group th{padding-top:.8rem;color:var(--soft)}table.facts td{white-space:normal;vertical-align:top;
 overflow-wrap:anywhere}table.facts td:first-child{white-space:nowrap}
.verdict{display:inline-block;padding:.3rem .8rem;border-radius:6px;font-weight:700;color:#fff}
.pass{background:#2f855a}.fail{background:#c05621}.invalid{background:#c53030}
.soft,.none{color:var(--soft)}pre{white-space:pre-wrap;overflow-wrap:anywhere}
@media(max-width:600px){body{font-size:14px}svg text{font-size:15px}td,th{padding:.25rem .5rem}
 .cards{grid-template-columns:repeat(2,1fr)}}
@media print{figure{break-inside:avoid}}
""".replace("DARK", ";".join(f"--c{at}:{colour}" for at, colour in enumerate(ON_DARK)))


def page(title: str, parts: Sequence[str], language: str = "en") -> str:
    heading = escape(words(language)(title))
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>{heading}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<h1>{heading}</h1>{''.join(parts)}</body></html>\n"
    )


def charts(items: Sequence[Chart], say: Say = ENGLISH) -> str:
    return f'<div class="charts">{"".join(render(chart, say) for chart in items)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, words: int = 1) -> str:
    """The first ``words`` columns are text, the others are numbers; a row of one cell heads the rows below it."""
    top = "".join(f"<th{' class=n' if k >= words else ''}>{escape(str(name))}</th>" for k, name in enumerate(head))
    body = "".join(_group(row[0], len(head)) if len(row) == 1 else _row(row, words) for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _group(name: object, width: int) -> str:
    return f'<tr class="group"><th colspan="{width}">{escape(str(name))}</th></tr>'


def _row(row: Sequence[Any], words: int) -> str:
    cells = (f"<td{' class=n' if k >= words else ''}>{escape(str(value))}</td>" for k, value in enumerate(row))
    return f"<tr>{''.join(cells)}</tr>"


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and sentences: long text wraps."""
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in rows)
    return f'<table class="facts">{body}</table>'


def cards(items: Sequence[tuple[str, str, str]]) -> str:
    """The figures a reader looks for first: (figure, what it is, a remark)."""
    body = "".join(
        f'<div class="card"><b>{escape(value)}</b>{escape(name)}<br><span class="soft">{escape(remark)}</span></div>'
        for value, name, remark in items
    )
    return f'<div class="cards">{body}</div>'


def inline(value: object) -> str:
    """A fact for people: ``name value, name value`` instead of a Python dictionary; nothing for what is empty."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {text}" for k, v in value.items() if (text := inline(v)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
