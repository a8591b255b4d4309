"""What Locust loads: the user class, the options, and the events that start and end a run.

locust -f loadtest/locustfile.py --headless --scenario chat --rate 5 --processes 2
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

from locust import User, constant, events, runners, task
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # plain `locust -f` does not know the package

from loadtest.arguments import Arguments
from loadtest.controller import Controller
from loadtest.errors import EXIT_USAGE, LoadtestError
from loadtest.options import add_options
from loadtest.session import WorkerSession
from loadtest.webui import add_streaming_tab

session = WorkerSession()
runners.time = SimpleNamespace(time=time.monotonic)  # a clock that was set looked like a minute without the master


class StreamingUser(User):  # type: ignore[misc]
    """Only keeps Locust running: ``LoadWorker`` sends the requests of either loop."""

    wait_time = constant(1)

    @task  # type: ignore[untyped-decorator]
    def wait(self) -> None:
        pass


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _options(parser: Any) -> None:
    parser.error = MethodType(Arguments.error, parser)  # one line, as in `python -m loadtest`
    add_options(parser, locust=True)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _init(environment: Any, runner: Any, web_ui: Any, **_: Any) -> None:
    if isinstance(runner, WorkerRunner):
        session.attach(environment)
        return
    if not isinstance(runner, (MasterRunner, LocalRunner)):
        return
    controller = Controller(environment, session)
    logging.getLogger("locust.stats_logger").setLevel(logging.CRITICAL)  # its percentiles are rounded, ours follow
    logging.getLogger("locust.runners").addFilter(lambda record: "spawn rate" not in str(record.msg))  # intended
    if web_ui:
        add_streaming_tab(web_ui, controller)
    elif environment.parsed_options.headless:
        try:
            controller.prepare()
        except LoadtestError as error:
            sys.stderr.write(f"loadtest: {error}\n")
            sys.exit(EXIT_USAGE)
