"""A server's processes and files, found without asking the server."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from serving import session_dir
from serving.launch import rundir
from tests.conftest import Server

MODELS = ("tokenizer", "engine", "detokenizer")


def family(server: Server) -> list[psutil.Process]:
    """The launcher and all that it started. Remember it before the launcher ends."""
    launcher = psutil.Process(server.process.pid)
    return [launcher, *launcher.children(recursive=True)]


def command(process: psutil.Process) -> list[str]:
    """The command line; nothing once the process has ended, which it may do at any moment."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # ZombieProcess is one
        return []


def triton(server: Server) -> psutil.Process:
    return next(p for p in psutil.Process(server.process.pid).children() if "tritonserver" in "".join(command(p)[:1]))


def stub(server: Server, model: str) -> psutil.Process:
    """A process of one model."""
    return next(p for p in triton(server).children() if any(f"/{model}/1/model.py" in part for part in command(p)))


def run_dir(server: Server) -> Path:
    return Path(triton(server).environ()["RUN_DIR"])


def shared_memory(server: Server) -> list[Path]:
    return list(Path("/dev/shm").glob(f"qwen_{server.process.pid}_*"))


def left_over(server: Server) -> list[Path]:
    """Files of an ended server: in /dev/shm, and run directories and gateway directories that name its launcher."""
    runs = [path for path in rundir.parent().glob(f"{rundir.PREFIX}*/{session_dir.LOCK}") if _names(path, server)]
    return [*shared_memory(server), *(path.parent for path in runs)]


def _names(lock: Path, server: Server) -> bool:
    try:
        return lock.read_text().startswith(f"qwen_{server.process.pid}_")
    except OSError:
        return False


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if _is_alive(p)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ended(processes: list[psutil.Process], seconds: float = 5.0) -> bool:
    """Whether they all have; one that was killed takes a moment to die."""
    end = time.monotonic() + seconds
    while alive(processes) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(processes)


def is_ready(server: Server) -> bool:
    try:
        with urllib.request.urlopen(f"{server.http}/v2/health/ready", timeout=1):
            return True
    except OSError:
        return False
