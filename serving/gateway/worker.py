"""One worker process. Started by ``supervisor``; exits on a signal or when the supervisor is gone.

SIGTERM comes from programs, and a router may be in front: the worker is a lame duck first. SIGINT is a person's Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until ``serve`` can answer it: no traceback out of an import

import uvicorn
import uvloop

from contract.heartbeat import BEAT_SECONDS, Heartbeat, worker_path
from serving.gateway import logs
from serving.gateway.api import app
from serving.gateway.connections import KEEPALIVE_SECONDS, bounded, most_connections
from serving.gateway.core.gateway import Gateway
from serving.gateway.listening import listen
from serving.gateway.settings import GatewaySettings


class _WorkerServer(uvicorn.Server):
    """uvicorn without its signal handlers: on a signal, this process drains before it closes the port."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: GatewaySettings) -> None:
    application, gateway = app.create(settings)
    gateway.tokens.prepare()
    most = most_connections(-(-settings.max_connections // settings.processes))
    config = uvicorn.Config(
        application, loop="uvloop", http=bounded(most, settings.write_seconds), ws="none", lifespan="on",
        access_log=False, log_config=None, server_header=False, backlog=2048, timeout_graceful_shutdown=3,
        timeout_keep_alive=KEEPALIVE_SECONDS,
    )  # fmt: skip
    server = _WorkerServer(config)
    loop, ending, at_once = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def hurry() -> None:
        at_once.set()
        ending.set()

    loop.add_signal_handler(signal.SIGTERM, ending.set)
    loop.add_signal_handler(signal.SIGINT, hurry)

    def orphaned() -> None:
        """Leave the port to the next supervisor's workers; open streams still end in peace."""
        for listener in server.servers:
            listener.close()
        hurry()

    loop.add_reader(0, orphaned)  # the supervisor holds the write end and never writes: readable means it is gone
    pulse = asyncio.create_task(_beat(Path(settings.run_dir)))
    drain = asyncio.create_task(_drain_when(ending, at_once, gateway, server))
    await server.serve([listen(settings.host, settings.port)])
    drain.cancel()
    pulse.cancel()


async def _beat(run_dir: Path) -> None:
    """From the event loop itself: when it stands still, so does this."""
    heartbeat = Heartbeat.create(worker_path(run_dir, os.getpid()))
    while True:
        heartbeat.beat()
        await asyncio.sleep(BEAT_SECONDS)


async def _drain_when(ending: asyncio.Event, at_once: asyncio.Event, gateway: Gateway, server: uvicorn.Server) -> None:
    await ending.wait()
    asyncio.get_running_loop().remove_reader(0)
    await gateway.lame_duck(at_once)
    await gateway.drain()
    server.should_exit = True


def main() -> None:
    settings = GatewaySettings.from_environment()
    logs.configure(settings.log_level)
    os.set_blocking(0, False)
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    else:
        uvloop.install()
        asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
