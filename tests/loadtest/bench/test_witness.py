"""The witness of `make bench-isolation` tells a pause of the machine from one of the server."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from loadtest.bench import witness
from loadtest.bench.witness import Witnessed, overlap


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [([], 0.0), ([(0.0, 9.0)], 2.0), ([(1.5, 2.0), (1.5, 2.5)], 1.0), ([(0.0, 1.0), (3.0, 4.0)], 0.0)],
)
def test_absences_of_several_cores_count_once_and_only_within(spans: list[tuple[float, float]], seconds: float) -> None:
    assert overlap(spans, 1.0, 3.0) == pytest.approx(seconds)


def sample(at: float, waited: float, faults: int, stolen: float = 0.0) -> dict[str, object]:
    threads = {"engine 1 a 1": [waited, 0.5 * at], "engine 1 b 2": [0.01 * at, 0.0]}
    return {"at": at, "stolen": stolen, "threads": threads, "faults": {"engine 1": faults, "gateway 2": 7}}


def test_a_gap_is_told_by_the_samples_around_it() -> None:
    seen = Witnessed()
    seen.read(
        [
            '{"is_real_time": false}\n',
            *(f"{line}\n" for line in map(witness.json.dumps, (sample(1.0, 0.0, 3), sample(1.1, 0.1, 3)))),
            f"{witness.json.dumps({'away': [1.2, 1.25]})}\n",
            f"{witness.json.dumps(sample(1.6, 0.5, 5, stolen=0.04))}\n",
        ]
    )
    found = seen.between(1.15, 1.5)
    assert found == {
        "away": 50, "stolen": 40, "waited": 400, "who": "engine 1 a 1", "worked": 250, "faults": {"engine 1": 2}
    }  # fmt: skip
    assert not seen.is_real_time


def test_a_gap_that_no_sample_follows_has_only_the_cores_word() -> None:
    assert Witnessed(away=[(1.0, 2.0)]).between(0.0, 3.0) == {"away": 1000}


def test_a_gap_that_began_before_the_row_is_told_too() -> None:
    now = time.monotonic()
    seen = Witnessed(away=[(now - 60, now - 59), (now - 1, now - 0.8)])
    seen.samples = [(at, witness.json.dumps(sample(at, 0.0, 3))) for at in (now - 60, now - 2, now + 1)]
    seen.forget()
    assert [at for at, _ in seen.samples] == [now - 2, now + 1]
    assert seen.between(now - 1.5, now)["away"] == 200 and "waited" in seen.between(now - 1.5, now)


def test_a_thread_that_has_no_core_is_seen_waiting() -> None:
    """Two programs that never sleep, on one core."""
    core = min(os.sched_getaffinity(0))
    busy = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"]
    with subprocess.Popen(busy) as one, subprocess.Popen(busy) as two, witness.witness(os.getpid()) as seen:
        try:
            found: dict[str, object] = {}
            deadline = time.monotonic() + 20
            while "waited" not in found and time.monotonic() < deadline:
                start = time.monotonic()
                time.sleep(0.5)
                end = time.monotonic()
                time.sleep(0.3)
                found = seen.between(start, end)
        finally:
            one.kill()
            two.kill()
    assert found["waited"] > 100, found  # type: ignore[operator]
    assert found["who"].split()[1] in {str(pid) for pid in (one.pid, two.pid, os.getpid())}  # type: ignore[attr-defined]
