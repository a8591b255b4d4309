"""CPU runtime: the parent's side. The engine lives in a process of its own (``worker.py``).

A separate process leaves the GIL of the serving process free, and a crash in native code ends the running requests
instead of the server. The parent forwards requests and passes the worker's steps on; everything else
happens in the worker.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection

from contract.engine_dir import EngineInfo
from contract.errors import EngineDirectoryError, EngineUnavailable, restarting
from contract.paths import ROOT
from serving.runtimes.base import (
    GUIDES,
    EngineRequest,
    OnDeath,
    OnStep,
    Runtime,
    RuntimeLimits,
    RuntimeOptions,
    RuntimeStats,
)
from serving.runtimes.openvino import wire

HONOURED = GUIDES | {  # by ``sampling.Sampler`` and the worker's scheduler
    "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "min_tokens", "bad_words",
    "logit_bias", "allowed_token_ids", "logprobs", "top_logprobs", "return_prompt_log_probs", "priority", "cache_salt",
    "resume_ids", "guided_decoding_complete",
}  # fmt: skip
CLOSE_SECONDS = 10.0
# glibc keeps 7 freed pieces of a size at hand. PagedAttention frees more than that in every layer, and the rest of
# malloc took 3.5 % of a step of SmolLM2; now 0.4 %.
MALLOC = "glibc.malloc.tcache_count=256"
log = logging.getLogger(__name__)


def interpreter() -> str:
    """The Python to run the worker with. Inside Triton's stub ``sys.executable`` is the stub."""
    candidates = (os.environ.get("PYTHON_EXECUTABLE"), f"{sys.prefix}/bin/python3", sys.executable)
    return next(path for path in candidates if path and os.access(path, os.X_OK))


class OpenVinoRuntime:
    """See the module. ``submit`` and ``abort`` write one message; a thread reads the steps."""

    capabilities = HONOURED

    def __init__(self, engine: EngineInfo, options: RuntimeOptions, on_step: OnStep, on_death: OnDeath) -> None:
        self._on_step, self._on_death = on_step, on_death
        self._closing = False
        self._sending = threading.Lock()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = _start(theirs.fileno())
        self._connection = Connection(ours.detach())
        # the engine reads paths relative to the working directory of this process, so the worker gets an absolute one
        self._connection.send(("start", dataclasses.replace(engine, path=engine.path.absolute()), options))
        self.limits: RuntimeLimits = self._await_ready()
        self._reader = threading.Thread(target=self._read, name="openvino-steps", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def submit(self, request: EngineRequest) -> None:
        self._send(("submit", request))

    def abort(self, sequence_id: int) -> None:
        try:
            self._send(("abort", sequence_id))
        except EngineUnavailable:
            log.debug("abort of sequence %d: the worker is gone", sequence_id)

    def stats(self) -> RuntimeStats:
        return self._stats

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        try:
            self._send(("close",), closing=True)
            self._process.wait(CLOSE_SECONDS)
        except (EngineUnavailable, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._reader.join(1.0)
        self._connection.close()

    def _await_ready(self) -> RuntimeLimits:
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            message = ("failed", f"the worker ended with code {self._process.wait()}; its own messages are above")
        if message[0] != "ready":
            self._process.wait()
            raise EngineDirectoryError(f"the openvino engine does not load: {message[1]}")
        self._stats: RuntimeStats = message[2]
        limits: RuntimeLimits = message[1]
        return limits

    def _send(self, message: tuple[object, ...], closing: bool = False) -> None:
        if self._closing and not closing:
            raise EngineUnavailable("engine: it is closed")
        try:
            with self._sending:
                self._connection.send(message)
        except OSError as error:
            raise EngineUnavailable(restarting("its worker process is gone")) from error

    def _read(self) -> None:
        try:
            while True:
                deltas, stats = wire.unpack(self._connection.recv_bytes())
                self._stats = stats or self._stats
                if deltas:
                    self._on_step(deltas)
        except (EOFError, OSError):
            if not self._closing:
                code = self._process.wait()
                self._closing = True
                self._on_death(f"the openvino worker ended unexpectedly ({_cause(code)})")


def _start(descriptor: int) -> subprocess.Popen[bytes]:
    command = [interpreter(), "-m", "serving.runtimes.openvino.worker", str(descriptor)]
    env = dict(os.environ, PYTHONPATH=joined(os.pathsep, str(ROOT), "PYTHONPATH"))
    env["GLIBC_TUNABLES"] = joined(":", MALLOC, "GLIBC_TUNABLES")  # of two values for one name the last counts
    return subprocess.Popen(command, pass_fds=[descriptor], stdin=subprocess.DEVNULL, env=env)


def joined(separator: str, value: str, name: str) -> str:
    """``value`` before those of the environment variable ``name``."""
    return separator.join([value, *filter(None, [os.environ.get(name)])])


def _cause(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def create(engine: EngineInfo, options: RuntimeOptions, on_step: OnStep, on_death: OnDeath) -> Runtime:
    """Start the worker and wait until its model is compiled. Raises ``EngineDirectoryError`` when it does not load."""
    return OpenVinoRuntime(engine, options, on_step, on_death)
