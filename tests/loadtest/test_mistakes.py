"""What is wrong with a command is one line, whichever way the load test is started."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.cli import parser
from loadtest.errors import LoadtestError
from loadtest.options import OPTIONS
from tests.loadtest.mock import ROOT, loadtest


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--grpc-port", "1"], "host: no Triton gRPC server answers at 127.0.0.1:1"),
        (["--transport", "sse", "--gateway-port", "1"], "host: no server answers at http://127.0.0.1:1/v1/models"),
        (["--slo", "ttft=abc"], "slo: 'ttft=abc'"),
        (["--scenario", "missing.toml"], "scenario: cannot read missing.toml"),
        (["--users", "many"], "users: 'many' is not a whole number"),
        (["--users", "8", "--rate", "5"], "users: 8 of them have nothing to do: poisson arrivals start requests at"),
        (["--duration", "soon"], "duration: 'soon' is not a duration"),
    ],
)
def test_mistakes_are_one_clear_line(options: list[str], says: str, tmp_path: Path) -> None:
    run = loadtest(tmp_path, *options)
    assert run.code == 2 and run.output.startswith("loadtest: " + says) and run.output.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--transport", "http"], "--transport: invalid choice: 'http'"),
        (["run", "--workers", "two"], "--workers: 'two' is not a whole number of at least 1"),
        (["run", "--workers", "257"], "--workers: 257 is over 256 generator processes"),
        (["run", "--web-port", "99999"], "--web-port: '99999' is not a port"),
        (["run", "--tranport", "grpc"], "unrecognized arguments: --tranport grpc"),
        (["sweep", "--max-rate", "fast"], "--max-rate: 'fast' is not a number above 0"),
        (["compare", "a", "b", "--worse", "5"], "--worse: '5' is not a share: write e.g. 5%"),
        (["start"], "run | sweep | compare | capacity: invalid choice: 'start'"),
        ([], "the following arguments are required: run | sweep | compare | capacity"),
    ],
)
def test_wrong_flags_are_one_line_each(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and says in error and error.count("\n") == 1 and "usage:" not in error


def test_plain_locust_refuses_in_one_line_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless"]
    for more, said in (("--grpc-port", "1"), "host: no Triton gRPC server"), (("-t", "9s"), "run-time: 9 would cut"):
        done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2 and f"loadtest: {said}" in done.stderr and "Traceback" not in done.stderr


def test_a_web_port_that_is_taken_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr("loadtest.preflight.check_target", lambda plan: None)
        options = parser().parse_args(["run", "--ui", "--web-port", str(port)])
        with pytest.raises(
            LoadtestError, match=rf"^web-port: {port} cannot be listened at .Address already in use.: give"
        ):
            options.action(options)


def test_the_web_form_shows_help_as_it_is() -> None:
    """A share's sign was doubled there, as argparse wants it."""
    assert not [option.flag for option in OPTIONS if "%" in option.help]
