"""Was it the machine or the server? What the cores, the kernel and the server's threads did between two moments.

    python -m loadtest.bench.witness core NUMBER | tree PID        JSON lines, until stdin ends

- A process per core, pinned to it and of real-time priority where that is allowed, sleeps ``TICK`` seconds at a time.
  No ordinary program keeps it waiting, so when it wakes late, that core did not run at all: the virtual machine was
  paused (``/proc/stat`` calls it steal, where the host says so) or the kernel was busy.
- One more reads counters every ``SAMPLE`` seconds: for each thread of the tree how long it was ready to run without a
  core (``/proc/PID/task/TID/schedstat``); major page faults of each process, which then waited for the disk; steal;
  pressure on memory and the disk (``/proc/pressure``).

``witness`` runs these programs and reads what they saw. Their figures stand beside a gap; they never change it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contract.paths import ROOT
from loadtest.bench.process import tree

TICK, LATE = 0.005, 0.010  # seconds: of sleep, and beyond it before a core counts as away
UNWATCHED = ("loadtest.bench.attacks", "loadtest.bench.witness")  # the first is meant to wait
SAMPLE, LOOK = 0.05, 2.0  # seconds between two readings, and between two looks for new threads
REMEMBERED = 5.0  # seconds
MOST_CORES = 16  # that are watched
PROC = Path("/proc")
SAMPLED = '{"at": '  # how a sample begins


# --- the programs -----------------------------------------------------------------------------------------------------


def watch_core(core: int) -> None:
    os.sched_setaffinity(0, {core})
    while True:
        began = time.monotonic()
        time.sleep(TICK)
        if (now := time.monotonic()) - began > TICK + LATE:
            say({"away": [began + TICK, now]})


def watch_tree(pid: int) -> None:
    counters = ThreadCounters(pid)
    while True:
        say(counters.read())
        time.sleep(SAMPLE)


def say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class ThreadCounters:
    """What only grows: ``waited`` and ``worked`` of threads in seconds, ``faults`` of processes, and the machine's."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._files: dict[str, int] = {}  # open ones: opening takes longer than reading
        self._names: dict[str, str] = {}
        self._looked = 0.0

    def read(self) -> dict[str, Any]:
        if time.monotonic() - self._looked > LOOK:
            self._look()
        found: dict[str, Any] = {"at": time.monotonic(), "threads": {}, "faults": {}, **machine()}
        for path, file in list(self._files.items()):
            try:
                words = os.pread(file, 1024, 0).rpartition(b")")[2].split()
            except ProcessLookupError:
                os.close(self._files.pop(path))
                continue
            name = self._names[path]
            if path.endswith("schedstat"):
                found["threads"][name] = [int(words[1]) / 1e9, int(words[0]) / 1e9]
            else:
                found["faults"][name] = int(words[9])
        return found

    def _look(self) -> None:
        self._looked = time.monotonic()
        for process in tree(self._pid):
            home = PROC / str(process.pid)
            with contextlib.suppress(OSError):
                name = role(home)
                if name in UNWATCHED:
                    continue
                self._open(home / "stat", f"{name} {process.pid}")
                for task in (home / "task").iterdir():
                    comm = (task / "comm").read_text(encoding="utf-8").strip()
                    self._open(task / "schedstat", f"{name} {process.pid} {comm} {task.name}")

    def _open(self, path: Path, name: str) -> None:
        if str(path) not in self._files:
            self._files[str(path)], self._names[str(path)] = os.open(path, os.O_RDONLY), name


def role(home: Path) -> str:
    """The model's or module's name from the command line: ``engine``, ``serving.gateway.worker``."""
    words = (home / "cmdline").read_bytes().decode(errors="replace").split("\0")
    if any(word.endswith("/model.py") for word in words):
        return next(Path(word).parts[-3] for word in words if word.endswith("/model.py"))
    if "-m" in words:
        return words[words.index("-m") + 1]
    return Path(words[0]).name


def machine() -> dict[str, float]:
    """Seconds: stolen from all cores; some or all tasks waiting for memory, for the disk."""
    stolen = int((PROC / "stat").read_bytes().split(b"\n", 1)[0].split()[8]) / os.sysconf("SC_CLK_TCK")
    found = {"stolen": stolen}
    for name in ("memory", "io"):
        with contextlib.suppress(OSError):  # a kernel without pressure figures
            line = (PROC / "pressure" / name).read_text(encoding="utf-8").split("\n", 1)[0]
            found[name] = int(line.rpartition("=")[2]) / 1e6
    return found


# --- their reader -----------------------------------------------------------------------------------------------------


@dataclass
class Witnessed:
    """What the programs have said since ``forget``. Samples stay text until they are asked for: reading them all would
    keep the measuring program busy."""

    away: list[tuple[float, float]] = field(default_factory=list)
    samples: list[tuple[float, str]] = field(default_factory=list)
    is_real_time: bool = True

    def read(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line.startswith(SAMPLED):
                self.samples.append((float(line[len(SAMPLED) :].partition(",")[0]), line))
            elif "away" in (said := json.loads(line)):
                self.away.append((said["away"][0], said["away"][1]))
            else:
                self.is_real_time = False

    def forget(self) -> None:
        """All but the last ``REMEMBERED`` seconds, in which a gap may have begun that ends later."""
        since = time.monotonic() - REMEMBERED
        self.away = [span for span in self.away if span[1] > since]
        self.samples = [sample for sample in self.samples if sample[0] > since]

    def between(self, start: float, end: float) -> dict[str, Any]:
        """Milliseconds from ``start`` to ``end`` (``time.monotonic``): ``away``, some core did not run; ``waited``, the
        thread that waited longest for a core, and its name; ``worked``, all threads; the rest as in ``machine``. All
        but the first are taken from the samples around."""
        found: dict[str, Any] = {"away": ms(overlap(self.away, start, end))}
        before = [line for at, line in self.samples if at <= start][-1:]
        after = [line for at, line in self.samples if at >= end][:1]
        return found | (difference(json.loads(before[0]), json.loads(after[0])) if before and after else {})


def difference(first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """Between two samples; see ``Witnessed.between``."""
    found: dict[str, Any] = {name: ms(last[name] - first[name]) for name in ("stolen", "memory", "io") if name in first}
    ran = {
        name: (waited - before[0], worked - before[1])
        for name, (waited, worked) in last["threads"].items()
        for before in [first["threads"].get(name, (0.0, 0.0))]
    }
    if ran:
        who = max(ran, key=lambda n: ran[n])
        found |= {"waited": ms(ran[who][0]), "who": who, "worked": ms(sum(worked for _, worked in ran.values()))}
    grown = {n: total - first["faults"].get(n, 0) for n, total in last["faults"].items()}
    return found | {"faults": {n: more for n, more in grown.items() if more}}


def overlap(spans: list[tuple[float, float]], start: float, end: float) -> float:
    """Length of the union of ``spans`` within ``start`` and ``end``."""
    total, until = 0.0, start
    for begins, ends in sorted(spans):
        total += max(0.0, min(ends, end) - max(begins, until))
        until = max(until, ends)
    return total


def ms(seconds: float) -> int:
    return round(seconds * 1e3)


@contextlib.contextmanager
def witness(pid: int) -> Iterator[Witnessed]:
    """Watch the cores of this machine and the tree of ``pid``."""
    seen = Witnessed()
    cores = sorted(os.sched_getaffinity(0))[:MOST_CORES]
    with contextlib.ExitStack() as stack:
        for words in [("tree", pid), *(("core", core) for core in cores)]:
            stack.enter_context(_program(seen, *map(str, words)))
        yield seen


@contextlib.contextmanager
def _program(seen: Witnessed, *words: str) -> Iterator[None]:
    command = [sys.executable, "-m", __name__, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as program:
        assert program.stdout and program.stdin
        reader = threading.Thread(target=seen.read, args=(program.stdout,), daemon=True)
        reader.start()
        try:
            yield
        finally:
            program.stdin.close()
            reader.join()


if __name__ == "__main__":
    kind, number = sys.argv[1:]
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        say({"is_real_time": False})
    (watch_core if kind == "core" else watch_tree)(int(number))
