"""A generator process by itself, without Locust."""

from __future__ import annotations

import time
from typing import Any

import gevent
import pytest

from loadtest import worker as module
from loadtest.cli import parser
from loadtest.command import locust_command
from loadtest.plan import plan_from
from loadtest.worker import LoadWorker


def started(reports: list[dict[str, Any]], **options: str) -> LoadWorker:
    plan = plan_from(
        {"transport": "sse", "gateway_port": "1", "duration": "300ms", "warmup": "0", "drain": "0"} | options
    )
    given: dict[str, Any] = {"index": 0, "count": 1, "epoch": time.time(), "sse_model": "m"} | {
            "packed": False, "plain": "",
        }  # fmt: skip
    one = LoadWorker(plan, **given, send=reports.append, fire=lambda *_: None)
    one.start()
    return one


def test_the_last_report_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was due in the same turn of the loop came after it, and the master took the worker for lost."""
    reports: list[dict[str, Any]] = []
    one = started(reports, rate="1", arrivals="constant")
    one.stop()
    monkeypatch.setattr(module, "REPORT_S", 0.0)
    late = gevent.spawn(one._report_forever)
    late.join(timeout=2)
    assert late.dead and [report["final"] for report in reports] == [True]


def test_all_users_start_at_once() -> None:
    """Locust's ramp of 100 users a second reached into the window of 1000."""
    command = locust_command(parser().parse_args(["run", "--users", "1000"]))
    assert command[command.index("--spawn-rate") + 1] == "1000"
