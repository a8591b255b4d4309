"""What every benchmark starts: it is awaited, measured, and stopped with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from contract.paths import ROOT
from loadtest.bench import process
from loadtest.bench.process import BenchProcess, memory_mib
from loadtest.errors import LoadtestError

PARENT = """
import subprocess, sys, time
work = "import time; sum(range(10**6)); print('up', flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", work])
time.sleep(60)
"""


class Announced(BenchProcess):
    def ready(self) -> bool:
        return "up" in self.log.read_text()


BENCH = """
import sys, time
from pathlib import Path
from loadtest.bench.process import BenchProcess
with BenchProcess([sys.executable, "-c", "import time; time.sleep(60)"], Path(sys.argv[1])) as one:
    print(one.popen.pid, flush=True)
    time.sleep(60)
"""


def test_a_benchmark_that_is_ended_stops_what_it_started(tmp_path: Path) -> None:
    bench = subprocess.Popen(
        [sys.executable, "-c", BENCH, str(tmp_path / "log")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert bench.stdout is not None
    server = psutil.Process(int(bench.stdout.readline()))
    bench.terminate()
    assert bench.wait(30) == 128 + signal.SIGTERM
    assert not server.is_running()


def test_children_are_measured_and_stopped_with_their_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ORPHANS_S", 0.2)
    with Announced([sys.executable, "-c", PARENT], tmp_path / "log") as one:
        one.wait()
        family = one.processes()
        assert len(family) == 2 and len(one.memory_mib()) == 2 and all(size > 1 for size in one.memory_mib().values())
        assert one.cpu_seconds() > one.cpu_seconds("no such program") == 0
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)
    assert one.processes() == [] and one.cpu_seconds() == 0
    one.stop()  # again: nothing happens


def test_several_start_at_once(tmp_path: Path) -> None:
    with ExitStack() as stack:
        all_of_them = [
            stack.enter_context(
                Announced([sys.executable, "-c", "print('up', flush=True); input()"], tmp_path / f"{k}")
            )
            for k in range(3)
        ]
        for one in all_of_them:
            one.wait()
        assert len({p.pid for one in all_of_them for p in one.processes()}) == 3


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; sys.exit('no GPU here')", r"^the process did not start: no GPU here; log: \S+$"),
        ("import time; time.sleep(60)", r"^the process was not ready within 0 s; log: \S+$"),
    ],
)
def test_one_that_does_not_start_says_why_in_one_line(code: str, says: str, tmp_path: Path) -> None:
    start_s = 30.0 if "exit" in code else 0.3
    one = Announced([sys.executable, "-c", code], tmp_path / "log", start_s=start_s)
    with one, pytest.raises(LoadtestError, match=says):
        one.wait()


def test_memory_is_in_mib() -> None:
    (size,) = memory_mib([psutil.Process(os.getpid())]).values()
    assert size == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.2)


def test_a_second_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    """It came while the first one's server was being stopped, which then ran on for ever."""

    class Interrupted(BenchProcess):
        def processes(self) -> list[psutil.Process]:
            signal.raise_signal(signal.SIGINT)
            return super().processes()

    one = Interrupted([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
    with pytest.raises(KeyboardInterrupt), one:
        raise KeyboardInterrupt
    assert one.popen is not None and one.popen.returncode == -signal.SIGTERM
