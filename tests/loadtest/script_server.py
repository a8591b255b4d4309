"""A server that answers as ``scripts`` say and writes down when it really sent what.

    python -m tests.loadtest.script_server [plain]   -> {"grpc": 0, "gateway": 41234}

The last user message names the script, so one run can hold all of them; the argument is for all other messages. GET
/truth gives, per request, the script, its arrival, and for each message with tokens the monotonic times before and
after it was sent: on one machine this is the generator's own clock.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

from tests.loadtest.answer import Answer
from tests.loadtest.scripts import SCRIPTS


class Server:
    def __init__(self, other: str) -> None:
        self.other = other
        self.truth: list[dict[str, Any]] = []

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")), 0
                )
                body = await reader.readexactly(length)
                await self.answer(head.split(b" ", 2)[1].decode(), body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def answer(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if path == "/v1/chat/completions":
            request = json.loads(body)
            asked = request["messages"][-1]["content"]
            script = asked if isinstance(asked, str) and asked in SCRIPTS else self.other
            answer = Answer(writer, request, script, time.monotonic())
            if request["max_tokens"] > 1:  # one: before the run
                self.truth.append({"script": answer.script, "arrived": answer.arrived, "sent": answer.sent})
            await SCRIPTS[answer.script](answer)
            return
        pages = {
            "/truth": self.truth,
            "/v1/models": {"object": "list", "data": [{"id": "scripted", "object": "model"}]},
        }
        text = json.dumps(pages.get(path, {}))
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())


async def serve() -> None:
    server = Server((*sys.argv[1:], "plain")[0])
    web = await asyncio.start_server(server.connection, "127.0.0.1", 0, backlog=1024)
    print(json.dumps({"grpc": 0, "gateway": web.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # the parent closes our stdin to end us
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in a terminal is no traceback
    asyncio.run(serve())
