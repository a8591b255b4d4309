"""A plan waits for the workers that are to read it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gevent

from loadtest.listening import READY, ListeningWorkers


def test_a_plan_waits_until_every_worker_listens() -> None:
    """On a busy machine it came before a worker had registered its handlers, and was lost."""
    handlers: dict[str, Any] = {}
    workers = ListeningWorkers(SimpleNamespace(register_message=handlers.__setitem__))
    waiting = gevent.spawn(workers.wait_for, ["a", "b"])
    handlers[READY](environment=None, msg=SimpleNamespace(node_id="a"))
    waiting.join(0.05)
    assert not waiting.ready()
    handlers[READY](environment=None, msg=SimpleNamespace(node_id="b"))
    waiting.join(5)
    assert waiting.ready()
