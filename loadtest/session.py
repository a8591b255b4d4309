"""A worker's side of the conversation with the master: receives the plan, sends reports, feeds Locust's own table."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

import gevent
import psutil

from loadtest.errors import EXIT_INTERRUPTED, TransportError
from loadtest.listening import READY
from loadtest.plan import RunPlan
from loadtest.record import Record
from loadtest.transports.dialect import Dialect
from loadtest.worker import LoadWorker
from serving.host.signals import Terminal

PLAN, REPORT, STOP = "loadtest_plan", "loadtest_report", "loadtest_stop"


class WorkerSession:
    """Holds the ``LoadWorker`` of the current run; one per process."""

    def __init__(self) -> None:
        self._environment: Any = None
        self._worker: LoadWorker | None = None

    def attach(self, environment: Any) -> None:
        """On a Locust worker: listen to the master, and tell it so."""
        self._environment = environment
        runner = environment.runner
        runner.register_message(PLAN, lambda environment, msg, **_: self.begin(environment, msg.data))
        runner.register_message(STOP, lambda environment, msg, **_: self.stop())
        environment.events.quitting.add_listener(lambda **_: self.stop())
        on_interrupt(environment, self.stop)
        runner.send_message(READY)

    def begin(self, environment: Any, order: dict[str, Any]) -> None:
        """``order``: the plan and this worker's share of it, see ``Controller``."""
        self.stop()
        self._environment = environment
        self._worker = LoadWorker(
            RunPlan(**order["plan"]), index=order["index"], count=order["count"], epoch=order["epoch"],
            sse_model=order["sse_model"], packed=order["packed"], dialect=Dialect(**order["dialect"]),
            send=self._send, fire=self._fire,
        )  # fmt: skip
        self._worker.start()

    def stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()

    def _send(self, report: dict[str, Any]) -> None:
        self._environment.runner.send_message(REPORT, report)

    def _fire(self, record: Record, error: TransportError | None) -> None:
        """One row per stream in Locust's own statistics: E2E, and the tokens as its length."""
        assert record.t_end is not None and record.t_send is not None
        self._environment.events.request.fire(
            request_type=record.transport.upper(),
            name=record.scenario,
            response_time=(record.t_end - record.t_send) * 1000,
            response_length=record.completion_tokens,
            exception=error,
            context={},
        )


def on_interrupt(environment: Any, stop: Callable[[], None]) -> None:
    """The first Ctrl-C ends the run in order, with its report; the second ends the process at once.

    A terminal that closes counts as a first Ctrl-C, however many signals it causes; under ``nohup`` the run goes on.

    Python's own handler would raise KeyboardInterrupt in whichever greenlet runs just then: a traceback, or a hang.
    """

    closes = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN

    def end() -> None:
        signal.signal(signal.SIGINT, _end_at_once)
        if closes:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stop()
        if environment.web_ui is not None:
            environment.web_ui.stop()
        else:
            environment.runner.quit()

    gevent.signal_handler(signal.SIGINT, end)
    if closes:
        gevent.signal_handler(signal.SIGHUP, end)
        gevent.spawn(_watch_terminal)


def _watch_terminal() -> None:
    """make, as `ssh -t HOST make loadtest` runs it, keeps the signal to itself."""
    terminal = Terminal()
    while not terminal.has_ended_us():
        gevent.sleep(1.0)
    os.kill(os.getpid(), signal.SIGHUP)


def _end_at_once(*_: Any) -> None:
    """Skip Python's own clean-up, which could wait for something that the user no longer wants to wait for."""
    for child in psutil.Process().children(recursive=True):  # Locust's workers, in the master
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(EXIT_INTERRUPTED)
