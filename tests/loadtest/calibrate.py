"""Is the load generator right? Against the calibrated server, whose own clock is the truth.

    python -m tests.loadtest.calibrate            -> results/loadtest_calibration.json, in three minutes

Accuracy over both transports, one worker against two, and a stall of 3 s in an open and in a closed loop. Wants a
quiet machine: a run whose generator was disturbed says INVALID and is reported as such.
"""

from __future__ import annotations

import contract.program

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contract.arguments import Arguments
from loadtest.environment import describe
from loadtest.stats import quantile
from tests.loadtest.mock import Result, loadtest, started

OUT = Path("results/loadtest_calibration.json")
TARGET = ("--ttft-ms", "100", "--spread", "0.5", "--itl-ms", "20")
LOAD = ("--output-tokens", "40", "--seed", "7")


def accuracy(directory: Path, transport: str, workers: int) -> dict[str, Any]:
    with started(*TARGET) as mock:
        options = ("--rate", "15", "--duration", "20s", "--warmup", "0s", "--workers", str(workers))
        run = loadtest(directory, *mock.ports, *LOAD, *options, "--transport", transport)
        truth = mock.get("/truth")
    return {
        "what": f"accuracy over {transport}, {workers} worker(s)",
        "verdict": run.summary["verdict"]["state"],
        "cpu_us_per_message": run.summary["generator"]["cpu_us_per_message"],
        **{f"{m}_p{q}": compared(run, truth, m, q) for m in ("ttft", "tpot") for q in (50, 99)},
    }


def compared(run: Result, truth: list[dict[str, float]], metric: str, percent: int) -> dict[str, float]:
    exact = quantile([row[metric] for row in truth], percent)
    reported = run.summary["total"]["latency"][metric][f"p{percent}"]
    return {"truth_ms": exact * 1e3, "reported_ms": reported * 1e3, "error_percent": (reported / exact - 1) * 100}


def stall(directory: Path, name: str, *load: str) -> dict[str, Any]:
    with started("--ttft-ms", "50", "--itl-ms", "10", "--stall-at", "10", "--stall-for", "3") as mock:
        mock.get("/reset")
        options = ("--duration", "25s", "--warmup", "0s", "--output-tokens", "10", "--scenario", "code")
        run = loadtest(directory, *mock.ports, *options, *load)
    latency = run.summary["total"]["latency"]
    shown = {f"e2e_sched_{p}_ms": latency["e2e_sched"][p] * 1e3 for p in ("p50", "p95", "p99", "max")}
    return {"what": f"3 s stall, {name}", "requests": latency["e2e_sched"]["count"], **shown}


def many_streams(directory: Path, users: int, workers: int) -> dict[str, Any]:
    """A message per stream every 20 ms; the server's own cost is next to nothing."""
    with started("--tick-ms", "20", server="flood_server") as mock:
        load = ("--users", str(users), "--duration", "12s", "--warmup", "4s", "--output-tokens", "uniform(150,350)")
        run = loadtest(directory, *mock.ports, *load, "--scenario", "code", "--workers", str(workers))
    figures, generator = run.summary["total"], run.summary["generator"]
    return {
        "what": f"{users} streams at 20 ms, {workers} worker(s)",
        "verdict": run.summary["verdict"]["state"],
        "reasons": run.summary["verdict"]["reasons"],
        "messages_per_s": figures["tokens_per_s"] / figures["tokens_per_message"],
        "itl_ms": {p: figures["latency"]["itl"][p] * 1e3 for p in ("p50", "p99")},
        "cpu_us_per_message": generator["cpu_us_per_message"],
        "cpu_of_a_core": [round(w["cpu"], 3) for w in generator["workers"]],
        "loop_lag_p99_ms": [round(w["loop_lag_p99"] * 1e3, 2) for w in generator["workers"]],
    }


def measured(at: Path) -> Iterator[dict[str, Any]]:
    for transport, workers in (("grpc", 1), ("grpc", 2), ("sse", 1)):
        yield accuracy(at / f"a{transport}{workers}", transport, workers)
    yield stall(at / "open", "open loop, 7 requests/s", "--rate", "7", "--arrivals", "constant")
    yield stall(at / "closed", "closed loop, 1 user", "--users", "1")
    for users, workers in ((256, 1), (256, 2), (512, 2)):
        yield many_streams(at / f"m{users}{workers}", users, workers)


def main() -> None:
    Arguments(prog="make loadtest-calibrate").parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for row in measured(Path(root)):
            rows.append(row)
            print(json.dumps(row, indent=1), flush=True)  # the next one takes half a minute
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"environment": describe(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"written to {OUT}")


if __name__ == "__main__":
    main()
