"""smg is told every name of the model; it and `make cluster` ask without a key."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deploy.cluster import aliases


class Models(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": name} for name in ("qwen-tiny", "Qwen/Tiny", "qwen")]}).encode()
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    monkeypatch.setattr(Models, "status", request.param)
    with ThreadingHTTPServer(("127.0.0.1", 0), Models) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("gateway", [200], indirect=True)
def test_every_name_but_the_first_is_an_alias(gateway: str) -> None:
    assert aliases(["http://127.0.0.1:1", gateway]) == [
        "--model-alias", "Qwen/Tiny=qwen-tiny", "--model-alias", "qwen=qwen-tiny",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("gateway", "said"),
    [
        (401, "no model can be used over HTTP: set GATEWAY_OPEN_MODELS=1"),
        (503, "only the first model name can be used"),
    ],
    indirect=["gateway"],
)
def test_names_that_cannot_be_read_are_told_with_the_remedy(
    gateway: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert aliases([gateway]) == [] and said in capsys.readouterr().out
