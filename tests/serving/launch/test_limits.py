"""What a host allows a server, and what is told before it starts."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading

import pytest

from contract.paths import ROOT
from serving.launch import limits
from serving.launch.config import LaunchError


def test_too_few_open_files_are_refused_with_what_to_raise() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving", "--runtime", "simulated"], cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=60, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )  # fmt: skip
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("serve: ulimit -Hn is 64: the server needs 256 open files") and "4096" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1, request.param))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: None)


@pytest.mark.parametrize("limit", [100], indirect=True)
@pytest.mark.usefixtures("limit")
def test_too_few_threads_are_refused_with_what_to_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_threads", lambda: 7)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    with pytest.raises(LaunchError, match=r"ulimit -Hu is 100, and this user has 7 threads: .*LimitNPROC"):
        limits.allow_threads()
    monkeypatch.setattr(os, "getuid", lambda: 0)  # the kernel does not count root's
    limits.allow_threads()


@pytest.mark.parametrize("limit", [-1, 1_000_000], indirect=True)
@pytest.mark.usefixtures("limit")
def test_a_limit_that_leaves_room_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(limits, "_threads", lambda: 7)
    limits.allow_threads()


def test_the_threads_of_this_user_are_counted() -> None:
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert limits._threads() >= 4
    finally:
        end.set()
        for thread in threads:
            thread.join()
