"""A generator process by itself, without Locust."""

from __future__ import annotations

import time
from typing import Any

import gevent
import pytest

from loadtest import worker as module
from loadtest.plan import plan_from
from loadtest.transports.dialect import Dialect
from loadtest.worker import LoadWorker


def started(reports: list[dict[str, Any]], index: int = 0, count: int = 1, **options: str) -> LoadWorker:
    plan = plan_from(
        {"transport": "sse", "gateway_port": "1", "duration": "300ms", "warmup": "0", "drain": "0"} | options
    )
    given: dict[str, Any] = {"index": index, "count": count, "epoch": time.time(), "sse_model": "m"} | {
            "packed": False, "dialect": Dialect(),
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


def test_users_are_the_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locust started them by its ramp, one where the plan said four, and gave them to workers that had no plan."""
    users: list[int] = []
    monkeypatch.setattr(LoadWorker, "_converse", lambda self, user: users.append(user))
    workers = [started([], index=index, count=3, users="8") for index in range(3)]
    gevent.sleep(0)
    assert sorted(users) == list(range(8))
    started([], rate="4", arrivals="constant")
    gevent.sleep(0)
    assert len(users) == 8, "an open loop has none"
    for worker in workers:
        worker.stop()
