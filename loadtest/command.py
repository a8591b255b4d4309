"""The Locust command line that a run becomes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from loadtest.options import OPTIONS
from loadtest.plan import RunPlan
from serving.host.ports import free_ports

LOCUSTFILE = str(Path(__file__).with_name("locustfile.py"))


def locust_command(options: argparse.Namespace) -> list[str]:
    """The Locust command line of a run."""
    users = int(options.users or RunPlan.users)  # they only keep Locust running
    command = [
        sys.executable,
        "-m",
        "loadtest.locust_process",
        "-f",
        LOCUSTFILE,
        "--host",
        options.host,
        "--users",
        str(users),
    ]
    # The web form's ramp: none, because all of ours start at second 0.
    command += ["--spawn-rate", str(users), "--loglevel", "WARNING"]
    if options.workers > 1:
        port = str(free_ports(1)[0])  # Locust's own is fixed: two runs on one machine would mix their workers
        command += ["--processes", str(options.workers), "--master-port", port]
        command += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port]
    command += ["--web-host", "127.0.0.1", "--web-port", str(options.web_port)] if options.ui else ["--headless"]
    for option in OPTIONS:
        value = getattr(options, option.flag[2:].replace("-", "_"))
        if value != option.default:
            command += [option.flag, value]
    return command
