"""Which workers listen to the master. Locust calls a worker ready before it does, and a plan sent too soon is lost."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import gevent

READY = "loadtest_ready"  # from a worker that has registered its handlers
READY_S = 10.0  # how long to wait for it at most


class ListeningWorkers:
    """Of the master whose Locust ``runner`` this is."""

    def __init__(self, runner: Any) -> None:
        self._ids: set[str] = set()
        runner.register_message(READY, lambda environment, msg, **_: self._ids.add(msg.node_id))

    def wait_for(self, ids: Collection[str]) -> None:
        """Until these workers listen, or for ``READY_S``."""
        until = time.monotonic() + READY_S
        while not self._ids.issuperset(ids) and time.monotonic() < until:
            gevent.sleep(0.01)
