"""kill -9 and SIGSTOP of every process under open streams: which fail, when it shows, when it serves again.

`make test-chaos`; writes what it saw to results/chaos.md. Streams outlive Triton's processes: they pause. The
launcher's rows stand at the end: killed, it takes all with it, and the next one starts at once; stopped, streams go on
and readiness says that nobody watches.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from contract.heartbeat import worker_pids
from contract.paths import ROOT
from tests.conftest import Server, start_server, stop_server
from tests.triton.open_streams import OpenStream, OpenStreams
from tests.triton.processes import (
    MODELS,
    alive,
    command,
    ended,
    family,
    left_over,
    run_dir,
    shared_memory,
    stub,
    triton,
)

pytestmark = [pytest.mark.triton, pytest.mark.chaos]
SIMULATED = ("--runtime", "simulated", "--step-ms", "50")
STREAMS = 100
UNREADY_SECONDS, ERROR_SECONDS, RECOVERY_SECONDS = 5.0, 16.0, 60.0  # the last of a busy machine: 15 of a quiet one
TABLE = ROOT / "results/chaos.md"
COLUMNS = ("process", "signal", "streams ended", "their error", "longest pause", "not ready after", "ready again after")
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"


def gateways(server: Server) -> list[psutil.Process]:
    """Its supervisor, if it runs just now."""
    children = psutil.Process(server.process.pid).children()
    return [p for p in alive(children) if command(p)[-1:] == ["serving.gateway"]]


def gateway(server: Server) -> psutil.Process:
    return gateways(server)[0]


def last_detokenizer(server: Server) -> psutil.Process:
    """Few cores have one, many have four."""
    files = run_dir(server).glob("detokenizer*.pid")
    return psutil.Process(int(max(files, key=lambda file: (len(file.name), file.name)).read_text()))


MODEL_PROCESSES: dict[str, Callable[[Server], psutil.Process]] = {
    **{model: lambda server, model=model: stub(server, model) for model in MODELS},
    "the last detokenizer": lambda server: last_detokenizer(server),
    "tritonserver": triton,
}


def streams_of(process: psutil.Process, streams: OpenStreams) -> list[OpenStream]:
    """Those whose connection ends in a gateway worker."""
    ports = {each.raddr.port for each in process.net_connections("tcp4") if each.raddr}
    return [stream for stream in streams.all if stream.port in ports]


def status(server: Server) -> int:
    try:
        return httpx.get(f"{server.gateway}/health/ready", timeout=4, trust_env=False).status_code
    except httpx.TransportError:
        return 0


def is_up(server: Server) -> bool:
    """By several connections, for each may meet another worker."""
    return all(status(server) == 200 for _ in range(6))


def until(check: Callable[[], bool], seconds: float) -> float:
    start = time.monotonic()
    while not check():
        if time.monotonic() - start > seconds:
            return float("inf")
        time.sleep(0.05)
    return time.monotonic() - start


def note(name: str, number: signal.Signals, streams: OpenStreams, began: float, unready: str, again: str) -> str:
    ends = [stream.ended - began for stream in streams.ended]
    seen = f"{len(ends)} of {STREAMS}" + (f" after {min(ends):.1f} to {max(ends):.1f} s" if ends else "")
    error = "; ".join({stream.error for stream in streams.ended})
    pause = max((stream.pause for stream in streams.all if not stream.ended), default=0.0)
    paused = f"{pause:.1f} s" if pause else ""
    row = f"| {' | '.join((name, number.name, seen, error[:160], paused, unready, again))} |"
    with TABLE.open("a") as table:
        table.write(row + "\n")
    return row


@pytest.fixture(scope="module", autouse=True)
def table() -> None:
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(HEAD)


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Server]:
    """One for each test: what the death before left must not help or harm the next."""
    server = start_server(tmp_path / "log", *SIMULATED, gateway=True)
    workers = run_dir(server) / "gateway"
    assert until(lambda: is_up(server) and len(worker_pids(workers)) == 2, RECOVERY_SECONDS) < RECOVERY_SECONDS
    yield server
    processes, directory = family(server), run_dir(server)
    stop_server(server)
    assert ended(processes) and not directory.exists() and not shared_memory(server)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", MODEL_PROCESSES)
def test_a_process_of_triton_dies_or_hangs(victim: Server, name: str, number: signal.Signals) -> None:
    with OpenStreams(victim, STREAMS) as streams:
        target = MODEL_PROCESSES[name](victim)
        target.send_signal(number)
        began = time.monotonic()
        unready = until(lambda: status(victim) != 200, UNREADY_SECONDS + 3)
        until(lambda: not alive([target]), ERROR_SECONDS)
        until(lambda: is_up(victim), RECOVERY_SECONDS)
        again, received = time.monotonic() - began, [stream.received for stream in streams.all]

        def go_on() -> bool:
            return all(stream.received > earlier for stream, earlier in zip(streams.all, received, strict=True))

        until(lambda: go_on() or bool(streams.ended), ERROR_SECONDS)
        row = note(name, number, streams, began, f"{unready:.1f} s", f"{again:.1f} s")
        assert unready <= UNREADY_SECONDS and not streams.ended and go_on(), row
    assert again < RECOVERY_SECONDS and victim.process.poll() is None, row
    assert until(lambda: not alive([target]), 5) < 5, f"{name} still hangs"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", ["worker", "supervisor"])
def test_a_process_of_the_gateway_dies_or_hangs(victim: Server, name: str, number: signal.Signals) -> None:
    """Of a worker its own streams end. A supervisor has none: everything goes on, new connections too."""
    with OpenStreams(victim, STREAMS) as streams:
        before = gateway(victim)
        target = before.children()[0] if name == "worker" else before
        hit = streams_of(target, streams) if name == "worker" else []
        target.send_signal(number)
        began = time.monotonic()
        answers: list[int] = []

        def is_replaced() -> bool:
            answers.append(status(victim))
            return not alive([target]) and len(workers := gateways(victim)) == 1 and len(workers[0].children()) == 2

        until(is_replaced, RECOVERY_SECONDS)
        until(lambda: is_up(victim), RECOVERY_SECONDS)
        again = time.monotonic() - began
        until(lambda: len(streams.ended) == len(hit), ERROR_SECONDS)
        failed = sum(answer != 200 for answer in answers)
        row = note(f"gateway {name}", number, streams, began, f"{failed} of {len(answers)} looks", f"{again:.1f} s")
        assert {id(s) for s in streams.ended} == {id(s) for s in hit}, row
        assert all(stream.error for stream in streams.ended), "none of them was a whole answer"
        assert name == "worker" or not failed, row
        received = [stream.received for stream in streams.all]
        time.sleep(1)
        moved = [stream.received > earlier for stream, earlier in zip(streams.all, received, strict=True)]
        assert moved.count(True) == STREAMS - len(hit), row
    assert again < RECOVERY_SECONDS and victim.process.poll() is None, row


def test_a_stopped_launcher_is_told_by_readiness_and_streams_go_on(victim: Server) -> None:
    with OpenStreams(victim, STREAMS) as streams:
        victim.process.send_signal(signal.SIGSTOP)
        unready = until(lambda: not any(status(victim) == 200 for _ in range(4)), UNREADY_SECONDS + 3)
        problem = httpx.get(f"{victim.gateway}/health/ready", trust_env=False).json()["status"]
        before = [stream.received for stream in streams.all]
        time.sleep(1)
        assert all(stream.received > earlier for stream, earlier in zip(streams.all, before, strict=True))
        assert not streams.ended
        victim.process.send_signal(signal.SIGCONT)
        again = until(lambda: is_up(victim), 10)
    row = note("launcher", signal.SIGSTOP, streams, 0, f"{unready:.1f} s", f"{again:.1f} s after SIGCONT")
    assert unready <= UNREADY_SECONDS + 1 and again < 5, row
    assert problem.startswith("the launcher has not run for ") and "nobody would start" in problem


def test_a_killed_launcher_takes_all_with_it_and_the_next_starts_at_once_on_the_same_ports(tmp_path: Path) -> None:
    first = start_server(tmp_path / "first", *SIMULATED, gateway=True)
    ports = first.ports
    with OpenStreams(first, STREAMS) as streams:
        processes, directory = family(first), run_dir(first)
        first.process.kill()
        began = time.monotonic()
        second = start_server(tmp_path / "second", *SIMULATED, gateway=True, ports=ports)
        again = time.monotonic() - began
        try:
            ends = [stream.ended - began for stream in streams.ended]
            row = note("launcher", signal.SIGKILL, streams, began, "at once", f"{again:.1f} s: the next one")
            assert len(ends) == STREAMS and max(ends) < ERROR_SECONDS, row
            assert ended(processes) and not directory.exists() and not shared_memory(first), row
            assert is_up(second) and again < RECOVERY_SECONDS, row
        finally:
            stop_server(second)
    assert left_over(first) == left_over(second) == []
