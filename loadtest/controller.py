"""The master's side: plan out, reports in, live figures for the console and the web UI, the report at the end."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event
from locust.runners import MasterRunner

from loadtest import console, files, prometheus, scrape
from loadtest.aggregate import Lane, merged
from loadtest.errors import EXIT_INVALID, EXIT_USAGE, LoadtestError
from loadtest.listening import ListeningWorkers
from loadtest.plan import RunPlan, plan_from
from loadtest.preflight import TargetFacts, check_target
from loadtest.record import Record
from loadtest.report import write_report
from loadtest.session import PLAN, REPORT, STOP, WorkerSession, on_interrupt
from loadtest.summary import Run, of_another, summarize
from loadtest.verdict import WorkerHealth

log = logging.getLogger(__name__)
LEAD_S = 1.0  # between sending the plan and second 0, so that every worker starts on time
GRACE_S = 10.0  # after the drain, for last reports
STOP_GRACE_S = 5.0
SILENCE_S = 30.0  # workers report each second: when none has for so long, none will
LIVE_S = 5.0
FREE_S = 3.0  # the server's own bound for noticing a client that is gone is 2 s


class Controller:
    """One per master (or local) process; a web UI may run it again and again."""

    def __init__(self, environment: Any, session: WorkerSession) -> None:
        self._environment, self._session = environment, session
        self._plan: RunPlan | None = None
        self._target = TargetFacts()
        self.run: Run | None = None
        self.directory: Path | None = None  # of the last report
        self._running: dict[int, int] = {}
        self._finished = Event()
        self._heard = 0.0  # when a worker last reported
        self._listening = ListeningWorkers(environment.runner)
        environment.runner.register_message(REPORT, self._on_report)
        environment.events.test_start.add_listener(self._on_start)
        environment.events.test_stopping.add_listener(lambda **_: self._interrupt())
        environment.events.quitting.add_listener(lambda **_: self._interrupt())
        on_interrupt(environment, self._interrupt)

    def prepare(self, form: Mapping[str, str] | None = None) -> None:
        """Check the options, as the web UI's ``form`` changes them, and the target. Raises ``LoadtestError``."""
        if self.running:
            raise LoadtestError(
                "a run measures one plan from its first second to its last: stop it, then start another"
            )
        options = vars(self._environment.parsed_options) | dict(form or {})
        if options.get("run_time"):
            cut = f"run-time: {options['run_time']} would cut the run off"
            raise LoadtestError(f"{cut}: it ends by itself after --duration or --requests")
        self._plan = plan_from(options | {"users": options.get("num_users") or options.get("users")})
        _check_ramp(self._plan, options.get("spawn_rate"))
        self._target = check_target(self._plan, ask=True)

    @property
    def running(self) -> bool:
        return self.run is not None and not self.run.closed

    @property
    def live(self) -> tuple[dict[str, Lane], int]:
        """All lanes so far and the streams open now."""
        return (self.run.lanes if self.run else {}), sum(self._running.values())

    def _on_start(self, environment: Any, **_: Any) -> None:
        if self._plan is None:  # --autostart: neither ``locustfile`` nor the web UI's form has prepared the run
            try:
                self.prepare()
            except LoadtestError as error:
                log.error("%s", error)
                gevent.spawn(environment.runner.stop)
                return
        assert self._plan is not None
        runner = environment.runner
        workers = sorted(c.id for c in runner.clients.ready) if isinstance(runner, MasterRunner) else [None]
        self._listening.wait_for([worker for worker in workers if worker])
        epoch = time.time() + LEAD_S
        server = scrape.ServerSeries(self._plan.url(self._plan.metrics_port, "/metrics"))
        self.run = Run(self._plan, self._target.facts, epoch, dict.fromkeys(range(len(workers))), server)
        self.run.zero += LEAD_S
        self._running, self._finished, self._heard = {}, Event(), time.monotonic()
        environment.process_exit_code = EXIT_INVALID  # until there is a verdict
        for index, client in enumerate(workers):
            order = {
                "plan": self._plan.to_dict(), "index": index, "count": len(workers), "epoch": epoch,
                "sse_model": self._target.sse_model,
                "packed": self._target.packed, "dialect": dataclasses.asdict(self._target.dialect),
            }  # fmt: skip
            if client is None:
                self._session.begin(environment, order)
            else:
                runner.send_message(PLAN, order, client)
        gevent.spawn(self._supervise, self.run)
        gevent.spawn(self._scrape, self.run)  # the counters' first value, before second 0

    def _on_report(self, environment: Any, msg: Any, **_: Any) -> None:
        run, report = self.run, msg.data
        if run is None or run.closed:
            return
        worker, self._heard = report["worker"], time.monotonic()
        run.ended = max(run.ended, report["now"])
        run.interrupted |= report["interrupted"]  # Ctrl-C may reach the workers before it reaches us
        self._running[worker] = 0 if report["final"] else report["running"]
        for name, lane in report["lanes"].items():
            run.lanes.setdefault(name, Lane()).merge(Lane.from_wire(lane))
        run.records.extend(Record.from_wire(row) for row in report["records"])
        run.workers[worker] = WorkerHealth(worker=worker, finished=report["final"], **report["health"])
        if all(w is not None and w.finished for w in run.workers.values()):
            self._finished.set()

    def _supervise(self, run: Run) -> None:
        """Scrape the server, show live lines, and end the run when every worker has or when their time is up."""
        helpers = [gevent.spawn(self._scrape_forever, run), gevent.spawn(self._show, run)]
        last = run.plan.drain if run.plan.requests is None else run.plan.timeout
        while not self._finished.wait(1.0):
            if run.now > run.plan.end + last + GRACE_S or time.monotonic() - self._heard > SILENCE_S:
                break
        gevent.killall(helpers)
        if run.closed:
            return
        try:
            self._close(run, complete=not run.interrupted)
        finally:  # whatever goes wrong with the report, the run ends
            options = self._environment.parsed_options
            (self._environment.runner.quit if options.headless else self._environment.runner.stop)()

    def _scrape_forever(self, run: Run) -> None:
        while True:
            self._scrape(run)
            gevent.sleep(1.0)

    def _scrape(self, run: Run) -> None:
        try:
            run.server.add(run.now, prometheus.fetch(run.server.url, scrape.TIMEOUT_S))
        except (OSError, ValueError) as error:
            run.server.error = str(getattr(error, "reason", error))

    def _last_scrape(self, run: Run) -> None:
        """Streams end and are freed a moment after their users saw that: give the server that moment."""
        left, deadline = sum(r.outcome == "cancelled" for r in run.records), time.monotonic() + FREE_S
        self._scrape(run)
        while time.monotonic() < deadline and ((run.server.freed_during_run or 0) < left or of_another(run)):
            gevent.sleep(0.25)
            self._scrape(run)

    def _show(self, run: Run) -> None:
        while True:
            gevent.sleep(LIVE_S)
            lanes, running = self.live
            if self._environment.parsed_options.headless and lanes:
                console.show(console.live_line(run.now, merged(lanes.values()), running))

    def _interrupt(self) -> None:
        """Ctrl-C, the web UI's Stop, or Locust's own end: stop the workers, then report what was measured."""
        run = self.run
        if run is None or run.closed:
            return
        run.interrupted = True
        runner = self._environment.runner
        if isinstance(runner, MasterRunner):
            runner.send_message(STOP)
        self._session.stop()
        self._finished.wait(STOP_GRACE_S)
        self._close(run, complete=False)

    def _close(self, run: Run, *, complete: bool) -> None:
        if run.closed:
            return
        run.closed = True
        run.complete = complete
        if complete:
            self._last_scrape(run)
        summary = summarize(run)
        console.show(console.summary_text(summary))
        try:
            directory = Path(run.plan.out) if run.plan.out else files.fresh("loadtest")
            write_report(run, summary, directory)
            self.directory = directory
            console.show(f"report: {directory / 'report.html'}")
            self._environment.process_exit_code = summary["verdict"]["exit_code"]
        except LoadtestError as error:  # the figures above were measured all the same
            sys.stderr.write(f"loadtest: {error}\n")
            self._environment.process_exit_code = EXIT_USAGE


def _check_ramp(plan: RunPlan, rate: Any) -> None:
    """All users start at second 0; Locust's ramp is taken where it would be over by the end of the warm-up."""
    try:
        ramp = (plan.users - 1) / float(rate)
    except (TypeError, ValueError, ZeroDivisionError):  # none was given, or Locust says what is wrong with it
        return
    if not plan.process.is_open and ramp > max(1.0, plan.warmup):
        why = f"{plan.users} users at {rate} a second would still be starting when the measured window does"
        raise LoadtestError(
            f"spawn-rate (ramp up): {why}: all start together, so give {plan.users}, or a longer warm-up"
        )
