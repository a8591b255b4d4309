"""kill -9 and SIGSTOP of every process under open streams: when they fail, when it shows, when it serves again.

`make test-chaos`; writes what it saw to results/chaos.md.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from contract.paths import ROOT
from tests.conftest import Server, start_server, stop_server
from tests.triton.processes import MODELS, alive, family, run_dir, shared_memory, stub, triton

pytestmark = [pytest.mark.triton, pytest.mark.chaos]
STREAMS = 12
UNREADY_SECONDS, ERROR_SECONDS, RECOVERY_SECONDS = 5.0, 16.0, 60.0
BODY = {"model": "qwen", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20_000, "ignore_eos": True}
TABLE = ROOT / "results/chaos.md"
COLUMNS = ("process", "signal", "streams ended", "their error", "not ready after", "ready again after")
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"


def gateway(server: Server) -> psutil.Process:
    return next(p for p in psutil.Process(server.process.pid).children() if p.cmdline()[-1] == "serving.gateway")


def worker(server: Server) -> psutil.Process:
    return gateway(server).children()[0]


VICTIMS: dict[str, Callable[[Server], psutil.Process]] = {
    **{model: lambda server, model=model: stub(server, model) for model in MODELS},  # type: ignore[misc]
    "tritonserver": triton,
    "gateway worker": worker,
    "gateway supervisor": gateway,
}


class Streams:
    """Open chat streams; ``ended`` holds when each ended, ``errors`` what it said last."""

    def __init__(self, server: Server) -> None:
        self.ended: list[float] = []
        self.errors: list[str] = []
        self._tokens = threading.Semaphore(0)
        self._url = f"{server.gateway}/v1/chat/completions"
        for _ in range(STREAMS):
            threading.Thread(target=self._read, daemon=True).start()
        for _ in range(STREAMS):
            assert self._tokens.acquire(timeout=30)

    def _read(self) -> None:
        last, first = "", True
        try:
            with httpx.stream(
                "POST", self._url, json=BODY | {"stream": True}, timeout=120, trust_env=False
            ) as response:
                for line in filter(None, response.iter_lines()):
                    last = line.removeprefix("data: ")
                    if first:
                        self._tokens.release()
                        first = False
            last = json.loads(last)["error"]["message"] if '"error"' in last else f"no error: {last[:60]}"
        except httpx.TransportError as error:
            last = f"connection lost ({type(error).__name__})"
        self.errors.append(last)
        self.ended.append(time.monotonic())


def status(server: Server) -> int:
    try:
        return httpx.get(f"{server.gateway}/health/ready", timeout=4, trust_env=False).status_code
    except httpx.TransportError:
        return 0


def until(check: Callable[[], bool], seconds: float) -> float:
    start = time.monotonic()
    while not check():
        if time.monotonic() - start > seconds:
            return float("inf")
        time.sleep(0.05)
    return time.monotonic() - start


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server(
        tmp_path_factory.mktemp("chaos") / "log", "--runtime", "simulated", "--step-ms", "15", gateway=True
    )
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(HEAD)
    yield server
    processes, directory = family(server), run_dir(server)
    stop_server(server)
    assert not alive(processes) and not directory.exists() and not shared_memory(server)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", VICTIMS)
def test_whatever_dies_or_hangs(victim: Server, name: str, number: signal.Signals) -> None:
    whole = not name.startswith("gateway")
    assert until(lambda: all(status(victim) == 200 for _ in range(4)), RECOVERY_SECONDS) < RECOVERY_SECONDS
    streams = Streams(victim)
    target = VICTIMS[name](victim)
    target.send_signal(number)
    began = time.monotonic()
    unready = until(lambda: status(victim) != 200, UNREADY_SECONDS + 3) if whole else 0.0
    if whole:
        until(lambda: len(streams.ended) == STREAMS, ERROR_SECONDS + 4)
    elif (
        name == "gateway worker" or number == signal.SIGKILL
    ):  # its supervisor may hang unnoticed: the workers serve on
        until(lambda: not alive([target]), ERROR_SECONDS + 4)
    until(lambda: all(status(victim) == 200 for _ in range(6)), RECOVERY_SECONDS)
    again = time.monotonic() - began
    ended = [moment - began for moment in streams.ended]  # of a gateway worker: those of its own streams
    seen = f"{len(ended)} of {STREAMS}" + (f" in {min(ended):.1f} to {max(ended):.1f} s" if ended else "")
    cells = (name, number.name, seen, streams.errors[0][:160] if streams.errors else "")
    row = f"| {' | '.join(cells)} | {f'{unready:.1f} s' if whole else 'never'} | {again:.1f} s |"
    with TABLE.open("a") as table:
        table.write(row + "\n")
    assert unready <= UNREADY_SECONDS and max(ended, default=0.0) <= ERROR_SECONDS, row
    assert len(ended) == STREAMS or not whole, row
    assert again < RECOVERY_SECONDS and victim.process.poll() is None, row
    if name == "gateway supervisor" and number == signal.SIGSTOP:
        target.kill()  # the launcher reaps and replaces it
    assert until(lambda: not alive([target]), 5) < 5, f"{name} still hangs"
