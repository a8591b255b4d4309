"""openvino's import reports to an analytics service; ours must not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contract.paths import ROOT

WATCHED = """
import os, socket, sys, time
seen = []
def watch(name, arguments):
    if name in ("socket.getaddrinfo", "socket.connect"):
        seen.append((name, arguments))
        raise OSError("nothing leaves this test")
sys.addaudithook(watch)
{imports}
time.sleep(1)  # the report leaves in a thread
print(seen, os.listdir(os.environ["HOME"]))
"""
PLAIN = "import openvino"
OURS = ("import build_engine.openvino.build", "import serving.runtimes.openvino.model")


def watch(imports: str, home: Path) -> str:
    """Name look-ups and connections of a process that imports, and what it leaves in its home."""
    code = WATCHED.format(imports=imports)
    command = [sys.executable, "-c", code]
    env = {"HOME": str(home), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("imports", OURS)
def test_no_look_up_no_connection_no_file(imports: str, tmp_path: Path) -> None:
    assert watch(imports, tmp_path) == "[] []"


def test_the_watch_sees_what_a_plain_import_does(tmp_path: Path) -> None:
    """If this fails, openvino has stopped reporting: drop the guard in serving/runtimes/openvino/__init__.py."""
    assert watch(PLAIN, tmp_path) != "[] []"
