"""What a machine may lack: one line that says so, and no hang; what it may do without: the server serves.

Full and read-only file systems are mounted in a namespace of their own, which takes root; without it those are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from serving.host.ports import free_ports
from serving.launch import health
from tests.conftest import ROOT, Server
from tests.triton.calls import ask
from tests.triton.processes import ended, family

pytestmark = pytest.mark.triton


def may_mount() -> bool:
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and not subprocess.run(probe, capture_output=True, check=False).returncode


needs_mounts = pytest.mark.skipif(not may_mount(), reason="may not mount a file system here")


def inside(script: str) -> list[str]:
    """The beginning of a command line: what follows runs after ``script``, in a mount namespace of its own."""
    return ["unshare", "--mount", "bash", "-c", f'{script} && exec "$@"', "bash"]


def started(log: Path, under: list[str], environment: Mapping[str, str], *arguments: str) -> Server:
    ports = free_ports(4)
    names = ("http", "grpc", "metrics", "gateway")
    flags = [f"--{name}-port={port}" for name, port in zip(names, ports, strict=True)]
    command = [*under, sys.executable, "-m", "serving", "--drain=1", *flags, *arguments]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=dict(environment), stdout=file, stderr=file, text=True)
    return Server(process, *ports, log)


def last_line(log: Path, under: list[str], *arguments: str) -> str:
    """Of a server that must end by itself."""
    server = started(log, under, os.environ, *arguments)
    try:
        assert server.process.wait(90) == 1, log.read_text()
    finally:
        server.process.kill()
    assert "Traceback" not in log.read_text()
    return log.read_text().splitlines()[-1]


READ_ONLY = f"mount --bind {ROOT} {ROOT} && mount -o remount,ro,bind {ROOT} && cd {ROOT}"


@needs_mounts
@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("mount -t tmpfs -o size=64k tmpfs /dev/shm", "serve: Triton did not start: /dev/shm is full or too small: "),
        ("mkdir -p /mnt/run && mount -t tmpfs -o size=16k tmpfs /mnt && export XDG_RUNTIME_DIR=/mnt",
         "serve: Triton did not start: a disk is full: make room where the run directory "),
        (READ_ONLY, f"serve: {ROOT}/.run"),
    ],
    ids=["no shared memory", "no disk", "read-only checkout"],
)  # fmt: skip
def test_a_machine_that_lacks_something_is_one_line(script: str, line: str, tmp_path: Path, small_engine: Path) -> None:
    assert last_line(tmp_path / "log", inside(script), f"--engine={small_engine}").startswith(line)


@needs_mounts
def test_a_disk_too_small_for_the_packages_is_one_line_and_nothing_looks_ready(tmp_path: Path) -> None:
    script = "mount -t tmpfs -o size=6m tmpfs /mnt && cp -r serving locks pyproject.toml /mnt && cd /mnt"
    command = [*inside(script), sys.executable, "/mnt/serving/launch/bootstrap.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr == "setup: the disk of /mnt/.venv is full: make room\n"


def test_a_host_name_that_nobody_knows_is_one_line(tmp_path: Path) -> None:
    assert last_line(tmp_path / "log", [], "--runtime=simulated", "--host=no.such.host.invalid").startswith(
        "serve: HOST=no.such.host.invalid cannot be used ("
    )


@pytest.mark.parametrize("name", ["http", "grpc", "metrics", "gateway"])
def test_a_taken_port_is_one_line(name: str, tmp_path: Path, server: Server) -> None:
    taken = dict(zip(("http", "grpc", "metrics", "gateway"), server.ports, strict=True))[name]
    line = last_line(tmp_path / "log", [], "--runtime=simulated", f"--{name}-port={taken}")
    assert line.startswith(f"serve: port taken: {name.upper()}_PORT={taken}; ")


BARE = {"PATH": "/usr/bin:/bin"}  # no HOME, no locale, no TMPDIR
POOR = BARE | {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"}


DOCKERS_SHARED_MEMORY = inside("mount -t tmpfs -o size=64m tmpfs /dev/shm") if may_mount() else []


@pytest.mark.parametrize(
    ("under", "environment", "host"),
    [
        (DOCKERS_SHARED_MEMORY, BARE, "127.0.0.1"),
        (["bash", "-c", 'umask 000; exec "$@" > /dev/full', "bash"], POOR, "::1"),
    ],
    ids=["no environment, and docker's 64 MB of shared memory", "a poor one, a full terminal, IPv6"],
)  # fmt: skip
def test_it_serves_without(
    under: list[str], environment: dict[str, str], host: str, tmp_path: Path, small_engine: Path
) -> None:
    own = started(
        tmp_path / "log", under, environment, f"--engine={small_engine}", f"--host={host}", f"--triton-host={host}"
    )
    host = f"[{host}]" if ":" in host else host
    try:
        own.wait_for(lambda: is_up(own, host), 120)
        assert health.generates(f"http://{host}:{own.http_port}", 10) == ""
        assert health.answers(f"http://{host}:{own.metrics_port}/metrics")
        answer = ask(f"{host}:{own.grpc_port}", text_input="Hi", max_tokens=8)
        assert answer.completion_tokens == 8, answer.error
        processes = family(own)
    finally:
        own.process.terminate()
        own.process.wait(30)
    assert ended(processes)


def is_up(server: Server, host: str) -> bool:
    assert server.process.poll() is None, server.log.read_text()
    return health.answers(f"http://{host}:{server.gateway_port}/health/ready")
