"""One cluster in a directory, and only one that runs can be asked to roll."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from contract.paths import ROOT
from deploy import running
from deploy.arguments import parse
from deploy.cluster import main
from serving.host.ports import free_ports
from tests.waiting import until


def test_one_cluster_in_a_directory(tmp_path: Path) -> None:
    first = running.claim(tmp_path)
    assert first is not None and running.claim(tmp_path) is None
    assert (tmp_path / running.FILE).read_text() == str(os.getpid())
    first.close()
    again = running.claim(tmp_path)
    assert again is not None
    again.close()


def test_a_second_cluster_starts_nothing(tmp_path: Path) -> None:
    with running.claim(tmp_path) or open(os.devnull):  # noqa: PTH123
        command = [sys.executable, "-m", "deploy.cluster", "--replicas", "http://127.0.0.1:1", "--run", str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and done.stdout.startswith(f"cluster: a cluster runs in {tmp_path} already")


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    run = tmp_path / "file/run"
    assert main(parse(["--run", str(run)])) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"cluster: {run}, where logs go, cannot be written (Not a directory): ")


def test_a_disk_that_is_full_later_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("deploy.cluster.check_ports", Mock(side_effect=full))
    monkeypatch.setattr(signal, "signal", Mock())
    assert main(parse(["--run", str(tmp_path)])) == 1
    assert capsys.readouterr().out == f"cluster: {tmp_path}: No space left on device\n"


def test_none_of_the_given_replicas_is_there(tmp_path: Path) -> None:
    urls = "http://127.0.0.1:1,http://127.0.0.1:2"
    http, grpc = map(str, free_ports(2))
    command = [sys.executable, "-m", "deploy.cluster", "--replicas", urls, "--port", http, "--grpc-port", grpc]
    done = subprocess.run(
        [*command, "--run", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    line = (
        "cluster: REPLICAS: http://127.0.0.1:1, http://127.0.0.1:2: no /health/ready says 200; start the replicas first"
    )
    assert done.returncode == 1 and done.stdout.splitlines() == [line]


def test_what_was_left_by_a_killed_cluster_is_not_signalled(tmp_path: Path) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    (tmp_path / running.FILE).write_text(str(sleeper.pid))
    assert running.roll(tmp_path) == 0 and main(parse(["--roll", "--run", str(tmp_path)])) == 1
    assert running.roll(tmp_path / "nowhere") == 0
    assert sleeper.poll() is None
    sleeper.kill()
    sleeper.wait()


def test_a_running_one_is_asked(tmp_path: Path) -> None:
    asked: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: asked.append(number))
    try:
        with running.claim(tmp_path) or open(os.devnull):  # noqa: PTH123
            assert main(parse(["--roll", "--run", str(tmp_path)])) == 0
        until(lambda: asked)  # another thread may take it, and later: it would end the process
    finally:
        signal.signal(signal.SIGHUP, before)
    assert asked == [signal.SIGHUP]
