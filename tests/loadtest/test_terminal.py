"""A load test whose terminal closes, as by a lost ssh connection."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contract.paths import ROOT
from tests.loadtest.mock import started
from tests.waiting import until

# A session's leader that, like make under `ssh -t`, keeps SIGHUP to itself and waits for its child.
LEADER = """
import os, signal, subprocess, sys
signal.signal(signal.SIGHUP, lambda *_: None)
os.open(sys.argv[1], os.O_RDWR)
default = signal.SIG_IGN if sys.argv[2] == "nohup" else signal.SIG_DFL
sys.exit(subprocess.call(sys.argv[3:], preexec_fn=lambda: signal.signal(signal.SIGHUP, default)))
"""
ACTIONS = {
    "run": ["run", "--duration", "60s"],
    "two workers": ["run", "--duration", "60s", "--workers", "2"],
    "sweep": ["sweep", "--duration", "60s", "--slo", "ttft=9s"],
    "nohup": ["run", "--duration", "3s"],
}


@pytest.mark.parametrize("what", ACTIONS)
def test_it_ends_with_its_report_unless_under_nohup(what: str, tmp_path: Path) -> None:
    ours, line = os.openpty()
    with started("--ttft-ms", "50", "--itl-ms", "20") as mock:
        command = [sys.executable, "-m", "loadtest", *ACTIONS[what], *mock.ports, "--rate", "8", "--warmup", "0s"]
        command += ["--output-tokens", "300", "--out", str(tmp_path)]
        leader = subprocess.Popen(
            [sys.executable, "-c", LEADER, os.ttyname(line), what, *command], cwd=ROOT, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        os.close(line)
        try:
            until(lambda: int(mock.get("/running")) >= 4)
            os.close(ours)
            output, _ = leader.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader.pid, signal.SIGKILL)
    found = json.loads((tmp_path / ("rate-8/summary.json" if what == "sweep" else "summary.json")).read_text())
    assert found["interrupted"] == (what != "nohup") and "Traceback" not in output, output
