"""Who is asked before a run, and what is said when the answer is no."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from contract.authority import authority
from loadtest.errors import LoadtestError
from loadtest.plan import plan_from
from loadtest.preflight import TargetFacts, check_target
from loadtest.transports.dialect import Dialect
from loadtest.transports.grpc_stream import Connections
from loadtest.transports.sse import SseTransport
from tests.certificates import Authority

MODELS = json.dumps({"data": [{"id": "first"}, {"id": "second"}]})
HEADERS: list[dict[str, str]] = []  # of each request
PATHS: list[str] = []  # of each completion


REFUSES = {"gpt-new": ("max_tokens",), "no-seed": ("seed",), "bare": ("stream_options", "seed")}  # beside ignore_eos


@contextmanager
def gateway(body: str = MODELS, status: int = 200, signed: Authority | None = None) -> Iterator[int]:
    """The port of a server that answers everything with ``body``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            HEADERS.append(dict(self.headers.items()))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def do_POST(self) -> None:
            """Knows no field but OpenAI's, as a strict server; the model "broken" is refused for good."""
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            PATHS.append(self.path)
            strict = REFUSES.get(request["model"], ())
            field = next((f for f in ("ignore_eos", *strict) if f in request), "")
            refusal = f"Unrecognized request argument: {field}" if field else ""
            refusal = "no such deployment" if request["model"] == "broken" else refusal
            event = json.dumps({"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]})
            text = json.dumps({"error": {"message": refusal}}) if refusal else f"data: {event}\n\ndata: [DONE]\n\n"
            self.send_response(400 if refusal else 200)
            self.send_header("Content-Type", "application/json" if refusal else "text/event-stream")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if signed is not None:
        made = signed.sign("server")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.certificate, made.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def asked(port: int, out: Path, **options: str) -> TargetFacts:
    plan = {"transport": "sse", "gateway_port": str(port), "out": str(out)}
    return check_target(plan_from(plan | options))


def test_the_model_is_the_first_or_the_one_that_was_asked_for(tmp_path: Path) -> None:
    with gateway() as port:
        assert asked(port, tmp_path).sse_model == "first"
        assert asked(port, tmp_path, model="second").sse_model == "second"
        with pytest.raises(LoadtestError, match=r"^model: 'third' is not served: use first, second$"):
            asked(port, tmp_path, model="third")


def test_no_proxy_of_the_environment_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with gateway() as port:
        assert asked(port, tmp_path).sse_model == "first"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("<html>", 200, "is not an OpenAI-compatible server"),
        ("[]", 200, "is not an OpenAI-compatible server"),
        ('{"data": []}', 200, "lists no model"),
        ("no", 401, "answered 401: set OPENAI_API_KEY"),
        ("no", 503, "OPENAI_API_KEY set"),
    ],
)
def test_what_is_no_model_server_is_said(body: str, status: int, says: str, tmp_path: Path) -> None:
    with gateway(body, status) as port, pytest.raises(LoadtestError, match=says) as told:
        asked(port, tmp_path)
    assert "\n" not in str(told.value)


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Authority(tmp_path, "ca")
    secure = {"host": "https://localhost"}
    with gateway(signed=ours) as port:
        with pytest.raises(LoadtestError, match="nobody known here has signed its certificate: name its CA"):
            asked(port, tmp_path, **secure)
        monkeypatch.setenv("QWEN_TLS_CA", str(tmp_path / "missing.crt"))
        with pytest.raises(LoadtestError, match=r"the CA file .*missing.crt cannot be read"):
            asked(port, tmp_path, **secure)
        monkeypatch.setenv("QWEN_TLS_CA", str(tmp_path / "ca.crt"))
        assert asked(port, tmp_path, **secure).sse_model == "first"
    with gateway() as port, pytest.raises(LoadtestError, match="may speak no TLS"):
        asked(port, tmp_path, **secure)


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    with gateway() as port:
        pass
    with pytest.raises(LoadtestError, match=f"^host: no server answers at http://{authority('127.0.0.1', port)}"):
        asked(port, tmp_path)


def test_headers_of_the_environment_go_with_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("LOADTEST_HEADERS", "X-Tenant: blue; X-Team: red: or green;")
    with gateway() as port:
        asked(port, tmp_path)
        head = SseTransport("127.0.0.1", port, "first", timeout=1, ignore_eos=True)._head
    sent = {name.lower(): value for name, value in HEADERS[-1].items()}
    assert (sent["x-tenant"], sent["x-team"], sent["authorization"]) == ("blue", "red: or green", "Bearer secret")
    assert "\r\nx-tenant: blue\r\n" in head and "\r\nauthorization: Bearer secret\r\n" in head
    assert Connections("127.0.0.1", 1).metadata["x-tenant"] == "blue"


@pytest.mark.parametrize("text", ["blue", "X Tenant: blue", "X-Tenant:", "X: a\r\nY: b", ": x", "X: ü"])
def test_what_is_no_header_is_said(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_HEADERS", text)
    with gateway() as port, pytest.raises(LoadtestError, match=r"^LOADTEST_HEADERS: .* is not a header: write") as told:
        asked(port, tmp_path)
    assert "\n" not in str(told.value)


def test_a_port_that_speaks_no_http_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(bytes(9))

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(LoadtestError, match=r"^host: no server answers at .*BadStatusLine"):
            asked(server.getsockname()[1], tmp_path)


def asked_for_a_token(port: int, out: Path, **options: str) -> TargetFacts:
    host = {"host": f"http://127.0.0.1:{port}/api/v1", "transport": "sse", "out": str(out)}
    return check_target(plan_from(host | options), ask=True)


def test_a_strict_server_gets_only_what_openai_knows(tmp_path: Path) -> None:
    with gateway() as port:
        found = asked_for_a_token(port, tmp_path)
        assert found.dialect == Dialect(extensions=False)
        assert found.facts["gateway"]["refuses"] == "HTTP 400: Unrecognized request argument: ignore_eos"
        assert asked_for_a_token(port, tmp_path, respect_eos="yes").dialect == Dialect()
        assert set(PATHS) == {"/api/v1/chat/completions"}


def test_openais_newer_models_get_the_length_under_its_new_name(tmp_path: Path) -> None:
    with gateway(json.dumps({"data": [{"id": "gpt-new"}]})) as port:
        found = asked_for_a_token(port, tmp_path)
        assert found.dialect == Dialect("max_completion_tokens", extensions=False)
        assert found.facts["gateway"]["refuses"] == "HTTP 400: Unrecognized request argument: ignore_eos"


@pytest.mark.parametrize(("model", "stream_options"), [("no-seed", True), ("bare", False)])
def test_a_server_without_seed_or_stream_options_gets_neither(tmp_path: Path, model: str, stream_options: bool) -> None:
    """Mistral's has no ``seed``, older NIMs no ``stream_options``."""
    with gateway(json.dumps({"data": [{"id": model}]})) as port:
        found = asked_for_a_token(port, tmp_path)
        assert found.dialect == Dialect(seed=False, stream_options=stream_options, extensions=False)


def test_a_server_that_refuses_one_token_is_not_loaded(tmp_path: Path) -> None:
    refused = pytest.raises(LoadtestError, match=r"^host: the server refuses to answer: HTTP 400: no such deployment$")
    with gateway(json.dumps({"data": [{"id": "broken"}]})) as port, refused:
        asked_for_a_token(port, tmp_path)


def test_a_server_that_lists_no_models_is_asked_for_the_one_that_was_named(tmp_path: Path) -> None:
    with gateway("no", 404) as port:
        with pytest.raises(LoadtestError, match=r"answered 404: .* needs --model"):
            asked(port, tmp_path)
        assert asked(port, tmp_path, model="gpt-x").sse_model == "gpt-x"


def test_a_key_is_checked_before_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway("no", 401) as port:
        monkeypatch.setenv("OPENAI_API_KEY", "wrong\n")
        with pytest.raises(LoadtestError, match="answered 401: the key of OPENAI_API_KEY is refused"):
            asked(port, tmp_path)
        monkeypatch.setenv("OPENAI_API_KEY", "two words")
        with pytest.raises(LoadtestError, match=r"^OPENAI_API_KEY: the key contains a space"):
            asked(port, tmp_path)


def test_headers_that_are_of_http_itself_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_HEADERS", "X-Team: red; Content-Length: 3")
    with gateway() as port, pytest.raises(LoadtestError, match=r"^LOADTEST_HEADERS: Content-Length is set by HTTP"):
        asked(port, tmp_path)
