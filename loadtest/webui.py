"""The Streaming tab of Locust's web UI: live percentiles, tokens/s and running streams, and the last report.

Rows go into ``extended_stats``, so *Statistics* and *Aggregated* keep counting requests and nothing else.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from loadtest.aggregate import Lane, merged
from loadtest.console import NAMES, milliseconds
from loadtest.errors import LoadtestError

if TYPE_CHECKING:
    from loadtest.controller import Controller

KEY = "streaming"
FILES = {"report.html": "Report", "stats.csv": "Streaming statistics CSV", "requests.csv": "Streaming requests CSV"}
COLUMNS = ("p50", "p90", "p99", "p99.9", "max")
STRUCTURE = [{"key": "name", "title": "ms"}, {"key": "count", "title": "count"}] + [
    {"key": column.replace(".", "_"), "title": column} for column in COLUMNS
]


def add_streaming_tab(web_ui: Any, controller: Controller) -> None:
    web_ui.template_args |= {
        "extended_tabs": [{"title": "Streaming", "key": KEY}],
        "extended_tables": [{"key": KEY, "structure": STRUCTURE}],
        "extended_csv_files": [{"href": f"./{KEY}/{name}", "title": title} for name, title in FILES.items()],
    }

    @web_ui.app.route(f"/{KEY}/<name>")  # type: ignore[untyped-decorator]
    @web_ui.auth_required_if_enabled  # type: ignore[untyped-decorator]
    def file(name: str) -> Any:
        """Of the last run that ended; Locust shows them under *Download Data*."""
        from flask import send_from_directory

        if name not in FILES or controller.directory is None:
            return "no run has ended yet", 404
        return send_from_directory(controller.directory.resolve(), name)

    @web_ui.app.before_request  # type: ignore[untyped-decorator]
    def refuse() -> Any:
        """What is wrong with the form, or with the target, is said there, before Locust starts anything."""
        from flask import jsonify, request

        if request.method != "POST" or not request.path.endswith("/swarm"):
            return None
        try:
            controller.prepare(request.form.to_dict() | {"num_users": request.form.get("user_count", "")})
        except LoadtestError as error:
            return jsonify({"success": False, "message": str(error)})
        return None

    @web_ui.app.after_request  # type: ignore[untyped-decorator]
    def add_rows(response: Any) -> Any:
        from flask import request

        if request.path.endswith("/stats/requests") and response.is_json:
            rows = streaming_rows(*controller.live, controller.run.now if controller.run else 0.0)
            response.set_data(json.dumps({**response.json, "extended_stats": [{"key": KEY, "data": rows}]}))
        return response


def streaming_rows(lanes: dict[str, Lane], running: int, now: float) -> list[dict[str, Any]]:
    rows = [_now(merged(lanes.values()), running, now)] if lanes else []
    for lane_name, lane in lanes.items():
        for metric, histogram in lane.histograms.items():
            percentiles = {
                column.replace(".", "_"): milliseconds(
                    (histogram.maximum if histogram.count else None)
                    if column == "max"
                    else histogram.percentile(float(column[1:]))
                )
                for column in COLUMNS
            }
            rows.append({"name": f"{lane_name} {NAMES[metric]}", "count": histogram.count, **percentiles})
    return rows


def _now(total: Lane, running: int, second: float) -> dict[str, Any]:
    tokens = sum(total.per_second.get(int(second) - k, 0) for k in (2, 3, 4)) / 3
    c = total.counts
    text = f"(now) {running} running streams, {tokens:.0f} tokens/s; {c['failed']} failed, {c['cancelled']} cancelled"
    return {"name": text, "count": c["completed"], **{column.replace(".", "_"): "" for column in COLUMNS}}
