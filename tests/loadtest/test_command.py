"""The Locust command of a run."""

from __future__ import annotations

from loadtest.cli import parser
from loadtest.command import locust_command


def test_two_runs_of_several_workers_do_not_meet() -> None:
    """Locust's own port is fixed: the second run ended in a traceback, or its workers joined the first."""
    commands = [locust_command(parser().parse_args(["run", "--workers", "2"])) for _ in range(2)]
    ports = [command[command.index("--master-bind-port") + 1] for command in commands]
    assert len(set(ports)) == 2
    for command, port in zip(commands, ports, strict=True):
        assert command[command.index("--master-port") + 1] == port
        assert command[command.index("--master-bind-host") + 1] == "127.0.0.1"
    assert "--master-port" not in locust_command(parser().parse_args(["run"]))
