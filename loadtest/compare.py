"""Two runs side by side: what changed, by how much, and whether chance explains it.

Intervals are 95 % percentile bootstraps over requests (2000 resamples each side); a difference counts when its interval
excludes 0. A percentile needs enough requests for its own interval to lie within the sample: with fewer, the bootstrap
knows nothing beyond the largest value and finds spurious differences. Runs should share scenario, seed and load; where
they do not, the page says so first.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from client.language import language
from contract import nesting, user_text
from loadtest import console, files
from loadtest.console import NAMES, milliseconds, per_second
from loadtest.errors import EXIT_INVALID, EXIT_LIMITS_MISSED, EXIT_OK, LoadtestError
from loadtest.histogram import Histogram
from loadtest.notes import FEW
from loadtest.record import Record
from loadtest.report import page
from loadtest.report.charts import PER_OCTAVE
from loadtest.report.sentences import sentences
from loadtest.report.svg import Chart, Series
from loadtest.report.words import words
from loadtest.stats import Interval, bootstrap_difference, mean_of_rows, needed, percentile_of_rows
from loadtest.summary import SCHEMA

METRICS = ("ttft_sched", "ttft", "tpot", "e2e_sched")
STATISTICS = {"mean": mean_of_rows, "p50": percentile_of_rows(50), "p95": percentile_of_rows(95)}
SAME = (
    "scenario", "transport", "arrivals", "rate", "users", "duration", "requests", "seed", "input_tokens",
    "output_tokens",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SavedRun:
    """A run read back from its directory."""

    directory: Path
    summary: dict[str, Any]
    records: list[Record]

    def values(self, metric: str) -> list[float]:
        return [v for r in self.records if r.measured and (v := r.values().get(metric)) is not None]


@dataclass(frozen=True, slots=True)
class Row:
    """One statistic of one metric: both values and their difference, seconds."""

    metric: str
    statistic: str
    a: float
    b: float
    change: Interval
    few: bool  # requests: nothing can be said about chance

    @property
    def ratio(self) -> float:
        return self.b / self.a if self.a else float("inf")


def load(directory: Path) -> SavedRun:
    """Raises ``LoadtestError`` when ``directory`` is not a run."""
    try:
        summary = nesting.loads(user_text.read(directory / "summary.json"))
        lines = user_text.json_lines(user_text.read(directory / "requests.jsonl"))
        schema = summary.get("schema") if isinstance(summary, dict) else None
        if schema != SCHEMA:
            raise LoadtestError(f"compare: {directory} has schema {schema!r}, this code reads {SCHEMA!r}")
        run = SavedRun(directory, summary, [Record.from_json(row) for _, row in lines])
        there, wanted = sum(record.measured for record in run.records), summary["total"]["counts"]["scheduled"]
        if there != wanted:
            lack = f"requests.jsonl has {there} of {wanted} measured requests"
            raise LoadtestError(f"compare: {directory} is damaged: {lack}")
        _read_all(run)
    except OSError as error:
        raise LoadtestError(
            f"compare: {directory} is not a run ({error}): name a directory of `make loadtest`"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise LoadtestError(f"compare: {directory} is damaged ({type(error).__name__}: {error})") from None
    return run


def _read_all(run: SavedRun) -> None:
    """What is compared below, so that whatever is missing or no number is found while the run's name is known."""
    for metric in METRICS:
        Histogram.of(run.values(metric))
    differences(run, run), _rates(run, run), more_failed(run, run, 0.0)


def rows_of(a: SavedRun, b: SavedRun) -> list[Row]:
    """Nothing for a metric that one side lacks."""
    rows = []
    for metric in METRICS:
        first, second = a.values(metric), b.values(metric)
        if len(first) < 2 or len(second) < 2:
            continue
        for name, statistic in STATISTICS.items():
            change = bootstrap_difference(first, second, statistic, len(METRICS) * len(STATISTICS))
            values = Histogram.of(first), Histogram.of(second)
            left, right = (h.mean if name == "mean" else h.percentile(float(name[1:])) for h in values)
            few = min(len(first), len(second)) < needed(50 if name == "mean" else float(name[1:]))
            rows.append(Row(metric, name, left or 0.0, right or 0.0, change, few))
    return rows


def differences(a: SavedRun, b: SavedRun) -> list[str]:
    """How the two plans differ, and whether a run was invalid: what a reader must know first."""
    notes = [
        f"{name}: A {first!r}, B {second!r}"
        for name in SAME
        if (first := a.summary["plan"].get(name)) != (second := b.summary["plan"].get(name))
    ]
    notes += [
        f"run {x} was interrupted after {run.summary['measured_s']:.1f} s"
        for x, run in (("A", a), ("B", b))
        if run.summary["interrupted"]
    ]
    notes += [f"run {x} is INVALID" for x, run in (("A", a), ("B", b)) if run.summary["verdict"]["state"] == "invalid"]
    return notes


def regressions(rows: list[Row], worse: float) -> list[str]:
    """What is slower in B by more than the share ``worse``, beyond chance: that of all rows together, because one of a
    dozen is beyond its own 95 % in every tenth comparison of a server with itself."""
    return [
        f"{NAMES[r.metric]} {r.statistic} is {r.ratio - 1:.1%} slower in B (allowed {worse:.1%})"
        for r in rows
        if not r.few and r.change.least > 0 and r.b > r.a * (1 + worse)
    ]


def more_failed(a: SavedRun, b: SavedRun, worse: float) -> list[str]:
    """That a larger share of B's requests failed, by more than ``worse``."""
    x, y = (run.summary["total"]["counts"] for run in (a, b))
    more = y["failed"] * x["scheduled"] > (1 + worse) * x["failed"] * y["scheduled"]
    return [f"{y['failed']} of {y['scheduled']} requests failed in B"] * more


def compare(a_dir: Path, b_dir: Path, out: Path, worse: float | None = None) -> int:
    """Print the table and write the page. With ``worse``, a share, the exit code is that of a verdict on B."""
    a, b = load(a_dir), load(b_dir)
    rows, notes = rows_of(a, b), differences(a, b)
    notes += [FEW] * any(row.few for row in rows)
    console.show(
        "\n".join([f"A = {a_dir}", f"B = {b_dir}", *(f"note: {n}" for n in notes), *_lines(rows), _rates(a, b)])
    )
    files.write(out.parent, {out.name: _page(a, b, rows, notes)})
    console.show(f"report: {out}")
    return EXIT_OK if worse is None else _judged(a, b, rows, worse)


def _judged(a: SavedRun, b: SavedRun, rows: list[Row], worse: float) -> int:
    found = regressions(rows, worse) + more_failed(a, b, worse)
    too_short = all(row.few for row in rows) and not found  # where all requests of B failed there is no row
    if too_short or any(run.summary["verdict"]["state"] == "invalid" for run in (a, b)):
        console.show("verdict: INVALID\n  a run is invalid, or too short to compare")
        return EXIT_INVALID
    console.show("\n".join([f"verdict: {'FAIL' if found else 'PASS'}", *(f"  {line}" for line in found)]))
    return EXIT_LIMITS_MISSED if found else EXIT_OK


def _cells(row: Row) -> list[str]:
    change = row.change
    return [
        milliseconds(row.a),
        milliseconds(row.b),
        f"{milliseconds(change.value)} [{milliseconds(change.low)}, {milliseconds(change.high)}]",
        f"{row.ratio:.3f}",
        "too few" if row.few else "yes" if change.excludes_zero else "no",
    ]


HEAD = ("ms", "A", "B", "B − A [95 % interval]", "B / A", "beyond chance")


def _lines(rows: list[Row]) -> list[str]:
    widths = (24, 10, 10, 30, 8, 14)
    table = [list(HEAD)] + [[f"{NAMES[r.metric]} {r.statistic}", *_cells(r)] for r in rows]
    return ["".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]


def _rates(a: SavedRun, b: SavedRun) -> str:
    x, y = (r.summary["total"] for r in (a, b))
    return (
        f"tokens/s {x['tokens_per_s']:.0f} → {y['tokens_per_s']:.0f}; goodput/s {per_second(x['goodput_per_s'])} → "
        f"{per_second(y['goodput_per_s'])}; failed {x['counts']['failed']} → {y['counts']['failed']}"
    )


def _page(a: SavedRun, b: SavedRun, rows: list[Row], notes: list[str]) -> str:
    say, sentence = words(language()), sentences(language())
    charts = [
        Chart(NAMES[metric], "ms (log)", "requests at or below", _cdfs(a, b, metric), log_x=True, y_max=1.0)
        for metric in METRICS
    ]
    lead = f'<p class="soft">A: {escape(str(a.directory))}; B: {escape(str(b.directory))}. {sentence(_rates(a, b))}</p>'
    warnings = "".join(f"<li>{escape(sentence(note))}</li>" for note in notes)
    table = page.table([*map(say, HEAD)], [[f"{say(NAMES[r.metric])} {r.statistic}", *_cells(r)] for r in rows])
    parts = [lead, f"<ul>{warnings}</ul>" if notes else "", table, page.charts(charts, say)]
    return page.page("Two load tests compared", parts, language())


def _cdfs(a: SavedRun, b: SavedRun, metric: str) -> list[Series]:
    return [
        Series(name, [(v * 1e3, share) for v, share in Histogram.of(values).cdf(PER_OCTAVE)], "steps")
        for name, run in (("A", a), ("B", b))
        if (values := run.values(metric))
    ]
