"""Signs of life of a running server, read without waiting for any of its processes.

- Every process that writes ``NAME.beat`` into the run directory must keep counting.
- tritonserver must answer a health check every second.
- The engine stub says for how long its engine has made no step although it has sequences (``serving.triton.stall``).
- When nothing runs, one token is generated every ``CANARY_SECONDS``; it must come.

Silence is measured in turns of the launcher's own loop (``contract.heartbeat``).
"""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path

from contract.ack_table import FILE_NAME, AckTable
from contract.heartbeat import MOST_PER_TURN, SUFFIX, Heartbeat, Sign
from serving.launch import health

UNREADY_SECONDS = 3.0  # silent for this long: not ready, but perhaps it comes back
HANG_SECONDS = 6.0  # silent for this long: hung, and started again
LIVE_SECONDS = 1.0  # between two looks at tritonserver
CANARY_SECONDS = 10.0  # of idleness between two generations


class Probe:
    """One HTTP request at a time over a socket that is never waited for."""

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self._address, self._request = address, request
        self._socket: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def send(self) -> None:
        """A failure to connect is an answer that never comes: the owner counts the seconds."""
        self.close()
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.settimeout(MOST_PER_TURN)  # to connect: the kernel answers for a hung process too
        with contextlib.suppress(OSError):
            self._socket.connect(self._address)
            self._socket.sendall(self._request)
        self._socket.setblocking(False)

    def answered(self) -> bool:
        """Whether the open request has an answer, whatever it says."""
        if self._socket is None:
            return False
        try:
            answer = self._socket.recv(4096)
        except OSError:
            return False
        self.close()
        return bool(answer)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Vitals:
    """One running Triton. ``look`` at every turn, then ask ``unready`` and ``hung``."""

    def __init__(self, run_dir: Path, host: str, port: int) -> None:
        self._beats = {path.stem: Heartbeat(path) for path in sorted(run_dir.glob(f"*{SUFFIX}"))}
        self._signs = {name: Sign() for name in (*self._beats, "tritonserver", "canary")}
        self._ack_table = AckTable(run_dir / FILE_NAME)
        self._live = Probe((host, port), b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        body = json.dumps(health.CANARY).encode()
        head = f"POST /v2/models/qwen/generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self._canary = Probe((host, port), head.encode() + body)
        self._since_live = self._idle = 0.0

    def look(self, elapsed: float) -> None:
        """``elapsed``: seconds since the last look."""
        elapsed = min(elapsed, MOST_PER_TURN)
        for name, beat in self._beats.items():
            self._signs[name].look(beat.count, elapsed)
        self._look_at_triton(elapsed)
        self._look_at_canary(elapsed)

    def unready(self) -> str:
        """Why requests are not answered now; empty while they are."""
        name, silent = self._worst()
        if silent >= UNREADY_SECONDS:
            return _silence(name, silent)
        stalled = self._ack_table.stalled
        return f"the engine has made no step for {stalled} s" if stalled else ""

    def hung(self) -> str:
        """Why the server must be started again; empty while there is hope."""
        name, silent = self._worst()
        return _silence(name, silent) if max(s.silent for s in self._signs.values()) >= HANG_SECONDS else ""

    def close(self) -> None:
        for beat in self._beats.values():
            beat.close()
        for probe in (self._live, self._canary):
            probe.close()
        self._ack_table.close()

    def _worst(self) -> tuple[str, float]:
        """The sign that has been silent for longest; tritonserver's before others, which it may have stopped."""
        silent = {name: sign.silent for name, sign in self._signs.items()}
        name = "tritonserver" if silent["tritonserver"] >= UNREADY_SECONDS else max(silent, key=lambda n: silent[n])
        return name, silent[name]

    def _look_at_triton(self, elapsed: float) -> None:
        sign = self._signs["tritonserver"]
        self._since_live += elapsed
        if self._live.answered():
            sign.silent = 0.0
        elif self._live.is_open:
            sign.silent += elapsed
        if self._since_live >= LIVE_SECONDS and (not self._live.is_open or sign.silent > UNREADY_SECONDS):
            self._since_live = 0.0
            self._live.send()

    def _look_at_canary(self, elapsed: float) -> None:
        """Its silence counts only while nothing else runs: behind a long queue it may wait."""
        sign, running = self._signs["canary"], self._ack_table.open_sequences
        if self._canary.answered():
            sign.silent, self._idle = 0.0, 0.0
        elif self._canary.is_open:
            sign.silent = sign.silent + elapsed if running <= 1 else 0.0
        elif running:
            self._idle = 0.0
        else:
            self._idle += elapsed
            if self._idle >= CANARY_SECONDS:
                self._canary.send()


def _silence(name: str, seconds: float) -> str:
    what = (
        "an idle server has not generated a token"
        if name == "canary"
        else f"the {name.partition('-')[0]} process has not run"
    )
    return f"{what} for {seconds:.0f} s"
