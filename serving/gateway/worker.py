"""One worker process. Started by ``supervisor``; exits on a signal, or when the supervisor is gone.

SIGTERM comes from programs, and a router may be in front: the worker is a lame duck first. SIGINT is a person's Ctrl-C.
SIGUSR2 ends open answers at once, with an error.

A worker whose supervisor was killed goes on serving while the launcher starts another one, whose workers share the
port. SIGUSR1 says that these listen: this worker then accepts no new connections and finishes its open answers.
"""

from __future__ import annotations

import contract.program

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from contract.heartbeat import BEAT_SECONDS, Heartbeat, worker_path
from serving import session_dir
from serving.gateway import logs
from serving.gateway.api import app
from serving.gateway.connections import KEEPALIVE_SECONDS, BoundedProtocol, bounded, most_connections
from serving.gateway.core.gateway import Gateway
from serving.gateway.listening import listen
from serving.gateway.settings import GatewaySettings

log = logging.getLogger("serving.gateway")
LOOK_SECONDS = 0.1  # of an orphan
LATE_SECONDS = 1.0  # for requests on their way over connections that are kept open


class _WorkerServer(uvicorn.Server):
    """uvicorn without its signal handlers: on a signal, this process drains before it closes the port."""

    def __init__(self, config: uvicorn.Config, run_dir: Path) -> None:
        super().__init__(config)
        self._run_dir = run_dir
        self._pulse: asyncio.Task[None] | None = None
        self._accepted: list[asyncio.Task[Any]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The heartbeat starts last, so a beating worker is one that listens."""
        await super().startup(sockets)
        gc.freeze()  # what is loaded stays: a full pass of the collector over it would stop the loop for 65 ms
        self._pulse = asyncio.create_task(_beat(self._run_dir))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self._pulse:
            self._pulse.cancel()

    def leave_port(self) -> None:
        """Take no new connections, and close each open one after its next answer."""
        for listener in self.servers:
            for listening in listener.sockets:
                self._accept_waiting(listening.fileno())
            listener.close()
        close = (b"connection", b"close")
        self.config.encoded_headers.append(close)  # from which uvicorn makes ``default_headers`` once per second
        self.server_state.default_headers = [*self.server_state.default_headers, close]

    def has_unheard(self) -> bool:
        """Whether a new connection's first request may be on its way. Closing the connection would reset it."""
        late = time.monotonic() - LATE_SECONDS
        return not all(task.done() for task in self._accepted) or any(
            isinstance(connection, BoundedProtocol) and connection.unheard_since and connection.unheard_since > late
            for connection in self.server_state.connections
        )

    def _accept_waiting(self, listening: int) -> None:
        """Take over the connections in the listener's queue, which the kernel would reset when it closes."""
        kind: Any = self.config.http_protocol_class
        protocol = partial(kind, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        loop = asyncio.get_running_loop()
        with socket.socket(fileno=os.dup(listening)) as queue, contextlib.suppress(OSError):  # until it is empty
            while True:
                connection, _ = queue.accept()
                connection.setblocking(False)
                self._accepted.append(asyncio.create_task(loop.connect_accepted_socket(protocol, connection)))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: GatewaySettings, listener: socket.socket) -> None:
    application, gateway = app.create(settings)
    gateway.tokens.prepare()
    most = most_connections(-(-settings.max_connections // settings.processes))
    config = uvicorn.Config(
        application, loop="uvloop", http=bounded(most, settings.write_seconds), ws="none", lifespan="on",
        access_log=False, log_config=None, server_header=False, backlog=2048, timeout_graceful_shutdown=3,
        timeout_keep_alive=KEEPALIVE_SECONDS,
    )  # fmt: skip
    server = _WorkerServer(config, Path(settings.run_dir))
    loop, ending, at_once = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def drain_now() -> None:
        at_once.set()
        ending.set()

    def end_now() -> None:
        gateway.hurry()
        drain_now()

    orphan = Orphaned(settings, gateway, server, drain_now)
    loop.add_reader(0, orphan.begin)  # the supervisor holds the write end and never writes: readable means it is gone
    for number, react in (
        (signal.SIGTERM, ending.set), (signal.SIGINT, drain_now), (signal.SIGUSR1, orphan.relieved.set),
        (signal.SIGUSR2, end_now),
    ):  # fmt: skip
        loop.add_signal_handler(number, react)
    drain = asyncio.create_task(_drain_when(ending, at_once, gateway, server))
    await server.serve([listener])
    drain.cancel()


class Orphaned:
    """A worker without a supervisor. Call ``begin`` when the supervisor is gone; set ``relieved`` when others serve."""

    def __init__(
        self, settings: GatewaySettings, gateway: Gateway, server: _WorkerServer, drain: Callable[[], None]
    ) -> None:
        self._launcher = Path(settings.readiness_file).parents[1] if settings.readiness_file else None
        self._gateway, self._server, self._drain = gateway, server, drain
        self.relieved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        asyncio.get_running_loop().remove_reader(0)
        log.warning("the supervisor is gone", extra={"open": self._gateway.open})
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._server.started or self._is_needed():
            await asyncio.sleep(LOOK_SECONDS)
        self._server.leave_port()
        until = time.monotonic() + LATE_SECONDS
        while self.relieved.is_set() and (self._gateway.open or time.monotonic() < until):
            await asyncio.sleep(LOOK_SECONDS)
        self._drain()

    def _is_needed(self) -> bool:
        """Whether to go on serving: a launcher that is alive, even a stopped one, will start other workers."""
        return bool(self._launcher and session_dir.is_owned(self._launcher)) and not self.relieved.is_set()


async def _beat(run_dir: Path) -> None:
    """Beat from the event loop itself: a loop that stands still shows."""
    heartbeat = Heartbeat.create(worker_path(run_dir, os.getpid()))
    while True:
        heartbeat.beat()
        await asyncio.sleep(BEAT_SECONDS)


async def _drain_when(ending: asyncio.Event, at_once: asyncio.Event, gateway: Gateway, server: _WorkerServer) -> None:
    await ending.wait()
    asyncio.get_running_loop().remove_reader(0)
    await gateway.lame_duck(at_once)
    await gateway.drain()
    server.leave_port()
    until = time.monotonic() + LATE_SECONDS
    while server.has_unheard() and time.monotonic() < until:
        await asyncio.sleep(LOOK_SECONDS / 10)
    server.should_exit = True


def main() -> None:
    settings = GatewaySettings.from_environment()
    logs.configure(settings.log_level)
    os.set_blocking(0, False)
    shared = sys.argv[1:]  # the supervisor's socket, if it shares it
    listener = socket.socket(fileno=int(shared[0])) if shared else listen(settings.host, settings.port)
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, listener))
    else:
        uvloop.install()
        asyncio.run(serve(settings, listener))


if __name__ == "__main__":
    main()
