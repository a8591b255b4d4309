"""An OpenAI server for the client's tests: the prompt says how it behaves, in the words of ``FakeTriton``."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from typing import Any

from tests.waiting import until

PIECE_SECONDS = 0.02


class FakeOpenAI:
    def __init__(self) -> None:
        self.live: set[int] = set()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"fake": self}))
        self._server.daemon_threads = True

    def start(self) -> FakeOpenAI:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def wait_free(self, seconds: float = 2.0) -> float:
        """Seconds until no request is running; fails when it takes longer."""
        return until(lambda: not self.live, seconds)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeOpenAI

    def do_POST(self) -> None:
        self.fake.live.add(id(self))
        try:
            prompt = json.loads(self.rfile.read(int(self.headers["content-length"])))["prompt"]
            word, _, rest = prompt.partition(" ")
            with contextlib.suppress(OSError):
                self._refuse(rest) if word == "ERR" else self._answer(word, rest)
        finally:
            self.fake.live.discard(id(self))

    def _refuse(self, rest: str) -> None:
        code, _, message = rest.partition(" ")
        body = json.dumps({"error": {"code": code, "message": message}}).encode()
        self.send_response(400)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, word: str, rest: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        if word == "SAY":
            self._event(rest, "stop")
            self.wfile.write(b"data: [DONE]\n\n")
            return
        for _ in range(1000):
            self._event("a ")
            if word == "STALL":
                self.connection.recv(1)  # until the client has gone
            time.sleep(PIECE_SECONDS)

    def _event(self, text: str, finish: str | None = None) -> None:
        event = json.dumps({"choices": [{"index": 0, "text": text, "finish_reason": finish}]})
        self.wfile.write(f"data: {event}\n\n".encode())

    def log_message(self, *_: Any) -> None:
        pass
