"""``python -m loadtest run | sweep | compare | capacity``: checks everything first, then hands over to Locust.

Exit code: 0 limits met, 1 limits missed or requests failed, 2 the command or the target is wrong, 3 INVALID.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from pathlib import Path

from contract.handover import ctrl_c_waits
from loadtest.arguments import Arguments, percent, positive, share
from loadtest.errors import EXIT_INTERRUPTED, EXIT_USAGE, LoadtestError
from loadtest.options import run_parser


def _run(options: argparse.Namespace) -> int:
    from loadtest.command import locust_command
    from loadtest.plan import plan_of_command
    from loadtest.preflight import check_target

    plan = plan_of_command(vars(options))
    check_target(plan)
    if options.ui:
        _check_web_port(options.web_port)
        print(f"open http://127.0.0.1:{options.web_port} (tab Streaming; Ctrl-C ends it)", flush=True)
    command = locust_command(options)
    with ctrl_c_waits():
        os.execv(command[0], command)


def _check_web_port(port: int) -> None:
    """Locust's own words are a traceback."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Locust: the last one's connections linger
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            remedy = 'give another one: make loadtest-ui ARGS="--web-port 8090"'
            raise LoadtestError(f"web-port: {port} cannot be listened at ({error.strerror}): {remedy}") from None


def _sweep(options: argparse.Namespace) -> int:
    from loadtest.sweep import sweep

    return sweep(options)


def _compare(options: argparse.Namespace) -> int:
    from loadtest.compare import compare

    if not options.a or not options.b:
        raise LoadtestError("compare: two runs are needed: make loadtest-compare A=reports/… B=reports/…")
    return compare(Path(options.a), Path(options.b), Path(options.out), options.worse)


def _capacity(options: argparse.Namespace) -> int:
    from loadtest.capacity import capacity

    return capacity(options.rate, options.sweep, options.risk)


def parser() -> argparse.ArgumentParser:
    top = Arguments(prog="python -m loadtest", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(required=True, dest="command", metavar="run | sweep | compare | capacity")
    run = commands.add_parser("run", help="one run, or with --ui the web UI")
    run_parser(run)
    run.set_defaults(action=_run)
    sweep = commands.add_parser("sweep", help="raise the rate until the limits break")
    run_parser(sweep)
    sweep.add_argument("--max-rate", type=positive, help="stop here (default: the rate that breaks the limits)")
    sweep.set_defaults(action=_sweep)
    compare = commands.add_parser("compare", help="two runs side by side, with confidence intervals")
    compare.add_argument("a", help="directory of the first run")
    compare.add_argument("b", help="directory of the second run")
    compare.add_argument("--out", default="reports/compare.html")
    compare.add_argument("--worse", type=share, help="exit 1 when B is slower by more, beyond chance, e.g. 5%%")
    compare.set_defaults(action=_compare)
    capacity = commands.add_parser("capacity", help="how many replicas a rate needs, from one replica's sweep")
    capacity.add_argument("--rate", type=positive, required=True, help="arrivals, requests per second")
    capacity.add_argument("--sweep", default="", help="a sweep of one replica (default: the newest in reports/)")
    capacity.add_argument("--risk", type=percent, default=0.01, help="percent of requests that may wait (default: 1)")
    capacity.set_defaults(action=_capacity)
    return top


def main() -> int:
    options = parser().parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as long as nothing is measured: gevent would print a traceback
    try:
        return int(options.action(options))
    except LoadtestError as error:
        sys.stderr.write(f"loadtest: {error}\n")
        return EXIT_USAGE
    except KeyboardInterrupt:
        sys.stderr.write("loadtest: interrupted\n")
        return EXIT_INTERRUPTED
