"""The gateway under its operator's hands: slots freed, keep-alives, drain, keys, limits, metrics, origins, logs."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from client.gateway import auth, coverage, openapi, relay
from client.gateway.errors import ApiError
from client.gateway.settings import Settings, SettingsError
from tests.client.fake_triton import FakeTriton
from tests.gateway.conftest import RunningGateway

CHAT = "/v1/chat/completions"
Start = Callable[..., RunningGateway]


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("prompt", ["x", "SLOW 30"])
def test_a_client_that_leaves_frees_its_slot(web: httpx.Client, fake: FakeTriton, stream: bool, prompt: str) -> None:
    fake.step_ms = 50
    with socket.create_connection((web.base_url.host, web.base_url.port or 0)) as raw:
        body = json.dumps(ask(prompt, max_tokens=10_000, stream=stream)).encode()
        raw.sendall(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body))
        end = time.monotonic() + 5
        while not fake.live:
            assert time.monotonic() < end
            time.sleep(0.005)
        time.sleep(0.1)
        assert fake.live
    assert fake.wait_free() < 0.2
    assert fake.ended[-1][1] in ("cancelled", "disconnected")


def test_all_prompts_of_a_request_are_freed(web: httpx.Client, fake: FakeTriton) -> None:
    fake.step_ms = 50
    body = {"prompt": ["a", "b", "c"], "max_tokens": 1000, "stream": True}
    with web.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()  # kept: dropping it would close the connection
        next(lines)
        while len(fake.live) < 3:  # the first line may come before the last prompt has arrived
            time.sleep(0.01)
    assert fake.wait_free() < 0.2
    bad = {"prompt": ["x", "ERR INVALID_ARGUMENT text_input: too long", "y"], "max_tokens": 1000}
    assert web.post("/v1/completions", json=bad).json()["error"]["param"] == "prompt"
    assert fake.wait_free() < 0.2


def test_silence_is_filled_with_comments(web: httpx.Client) -> None:
    with web.stream("POST", CHAT, json=ask("SLOW 1.3", stream=True)) as response:
        lines = list(response.iter_lines())
    assert lines.count(": keep-alive") >= 1
    assert lines.index(": keep-alive") < next(i for i, line in enumerate(lines) if "w0" in line)
    assert lines[-2:] == ["data: [DONE]", ""]


def test_an_error_in_mid_stream_is_an_event_and_the_end(web: httpx.Client) -> None:
    with web.stream("POST", CHAT, json=ask("MID UNAVAILABLE engine: the worker died", stream=True)) as response:
        events = [line for line in response.iter_lines() if line]
    assert response.status_code == 200
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert error["message"] == "engine: the worker died" and error["status"] == 503
    for prompt in ("GAP", "CUT"):
        assert web.post(CHAT, json=ask(prompt, stream=True)).text.count("[DONE]") == 0


def test_continuous_usage_and_token_ids(web: httpx.Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    text = web.post(CHAT, json=ask("x", max_tokens=3, stream=True, stream_options=options, return_token_ids=True)).text
    events = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    assert [e["usage"]["completion_tokens"] for e in events if e["choices"] and e["choices"][0].get("token_ids")] == [
        1,
        2,
        3,
    ]


def test_health_and_canary(web: httpx.Client, fake: FakeTriton) -> None:
    assert web.get("/health/live").status_code == web.get("/health/ready").status_code == 200
    assert web.get("/health/generate").json()["status"] == "generates"
    assert fake.requests[-1]["max_tokens"] == 1
    fake.ready = False
    try:
        assert "has not loaded" in web.get("/health/ready").json()["status"]
    finally:
        fake.ready = True


def test_the_trace_context_goes_on_to_triton(web: httpx.Client, fake: FakeTriton) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = web.post(CHAT, json=ask("SAY x"), headers={"traceparent": parent, "x-request-id": "mine-1"})
    assert fake.metadata[-1]["traceparent"] == parent
    assert answer.headers["x-request-id"] == "mine-1"


def test_metrics_of_all_workers_and_the_engine(web: httpx.Client) -> None:
    web.post(CHAT, json=ask("x", max_tokens=4, stream=True))
    families = {f.name: f for f in text_string_to_metric_families(web.get("/metrics").text)}
    for name in ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds",
                 "request_queue_time_seconds", "request_prompt_tokens", "request_generation_tokens"):  # fmt: skip
        samples = {s.name: s.value for s in families[f"vllm:{name}"].samples if s.name.endswith("_count")}
        assert samples[f"vllm:{name}_count"] >= 1, name
    assert families["vllm:kv_cache_usage_perc"].samples[0].value == 0.25
    assert families["vllm:num_requests_waiting"].samples[0].value == 12
    assert "nv_inference_count" not in families
    assert families["qwen_gateway_open_requests"].samples[0].value == 0


def test_log_lines_have_numbers_and_no_prompts(web: httpx.Client, gateway: RunningGateway) -> None:
    web.post(CHAT, json=ask("SAY my secret"), headers={"x-request-id": "log-me"})
    end = time.monotonic() + 3
    while "log-me" not in gateway.log.read_text():
        assert time.monotonic() < end
    line = next(json.loads(text) for text in gateway.log.read_text().splitlines() if "log-me" in text)
    assert line["status"] == 200 and line["output_tokens"] == 3 and line["finish"] == "stop" and "ttft_ms" in line
    assert "my secret" not in gateway.log.read_text()


def test_other_sites_pages_are_refused(web: httpx.Client, own_gateway: Start) -> None:
    assert web.post(CHAT, json=ask("x"), headers={"origin": "https://evil.example"}).status_code == 403
    own = str(web.base_url).rstrip("/")
    same = web.post(CHAT, json=ask("SAY x"), headers={"origin": own})
    assert same.status_code == 200 and "access-control-allow-origin" not in same.headers
    open_to_one = own_gateway(GATEWAY_CORS_ORIGINS="https://app.example", GATEWAY_WORKERS="1")
    preflight = {"origin": "https://app.example", "access-control-request-method": "POST"}
    answer = httpx.options(open_to_one.url + CHAT, headers=preflight, trust_env=False)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert (
        httpx.post(open_to_one.url + CHAT, json=ask("x"), headers={"origin": "https://b"}, trust_env=False).status_code
        == 403
    )


def test_keys_and_their_token_budget(own_gateway: Start, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"sk-two").hexdigest()
    (tmp_path / "keys").write_text(f"# who\nalice sk-one 100000\nbob sha256:{digest} 20\n")
    gateway = own_gateway(GATEWAY_API_KEYS_FILE=str(tmp_path / "keys"))

    def post(key: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.post(gateway.url + CHAT, json=ask("SAY abc"), headers=headers, trust_env=False)

    assert post("").status_code == post("sk-wrong").status_code == 401
    assert post("").headers["www-authenticate"] == "Bearer"
    assert [post("sk-one").status_code for _ in range(4)] == [200] * 4
    statuses = [post("sk-two") for _ in range(4)]  # 12 tokens each, of 20, over both workers
    assert [s.status_code for s in statuses] == [200, 200, 429, 429]
    assert int(statuses[-1].headers["retry-after"]) >= 2
    for path, status in (
        ("/metrics", 401),
        ("/v1/models", 401),
        ("/health/generate", 401),
        ("/health/ready", 200),
        ("/", 200),
    ):
        assert httpx.get(gateway.url + path, trust_env=False).status_code == status, path
    assert "sk-one" not in gateway.log.read_text()


def test_too_many_open_requests_get_429(own_gateway: Start, fake: FakeTriton) -> None:
    gateway = own_gateway(GATEWAY_MAX_OPEN_REQUESTS="2", GATEWAY_WORKERS="1")
    with httpx.Client(base_url=gateway.url, trust_env=False) as web:
        with held(web, fake, 2):
            busy = web.post(CHAT, json=ask("SAY x"))
            assert busy.status_code == 429 and int(busy.headers["retry-after"]) >= 1
        fake.wait_free()
        assert web.post(CHAT, json=ask("SAY x")).status_code == 200


class held:  # reads like a function
    """``count`` requests that stay open inside the ``with``."""

    def __init__(self, web: httpx.Client, fake: FakeTriton, count: int) -> None:
        self._web, self._fake, self._count = web, fake, count
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> None:
        body = json.dumps(ask("SLOW 30")).encode()
        for _ in range(self._count):
            raw = socket.create_connection((self._web.base_url.host, self._web.base_url.port or 0))
            raw.sendall(
                b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
            )
            self._sockets.append(raw)
        end = time.monotonic() + 5
        while len(self._fake.live) < self._count:
            assert time.monotonic() < end
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        for raw in self._sockets:
            raw.close()


def test_drain_lets_streams_end_then_leaves_nothing(own_gateway: Start, fake: FakeTriton) -> None:
    fake.step_ms = 20
    gateway = own_gateway(GATEWAY_DRAIN_SECONDS="1.5")
    texts: dict[str, str] = {}

    def stream(name: str, tokens: int) -> None:
        body = ask("x", max_tokens=tokens, stream=True)
        with httpx.stream("POST", gateway.url + CHAT, json=body, trust_env=False, timeout=20) as response:
            texts[name] = "".join(response.iter_text())

    threads = [threading.Thread(target=stream, args=a) for a in (("short", 30), ("long", 10_000))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 5
    while len(fake.live) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    gateway.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert httpx.get(f"{gateway.url}/health/ready", trust_env=False).status_code == 503
    late = httpx.post(gateway.url + CHAT, json=ask("x"), trust_env=False)
    assert late.status_code == 503 and late.json()["error"]["code"] == "draining"
    for thread in threads:
        thread.join(10)
    assert "[DONE]" in texts["short"]
    assert '"status":503' in texts["long"] and "[DONE]" not in texts["long"]
    assert gateway.process.wait(10) == 0
    assert fake.wait_free() < 0.5
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if _is_worker_of(p, gateway.process.pid)]


def _is_worker_of(cmdline: Path, parent: int) -> bool:
    try:
        stat = (cmdline.parent / "stat").read_text().rsplit(")", 1)[1].split()
        return b"client.gateway.worker" in cmdline.read_bytes() and int(stat[1]) == parent
    except OSError:
        return False


def _workers(parent: int) -> list[int]:
    return [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if _is_worker_of(p, parent)]


def test_a_dead_worker_is_replaced_and_a_dead_supervisor_ends_all(own_gateway: Start) -> None:
    gateway = own_gateway()
    first = _workers(gateway.process.pid)
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    end = time.monotonic() + 20
    while len(now := _workers(gateway.process.pid)) < 2 or first[0] in now:
        assert time.monotonic() < end
        time.sleep(0.05)
    gateway.process.kill()
    gateway.process.wait()
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in now):
        assert time.monotonic() < end, "workers outlive their supervisor"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("environment", "words"),
    [({"GATEWAY_PORT": "many"}, "GATEWAY_PORT=many: give a whole number"), ({"GATEWAY_PORT": "70000"}, "0 to 65535"),
     ({"GATEWAY_API_KEYS_FILE": "/nonexistent"}, "cannot be read"), ({"GATEWAY_LOG_LEVEL": "LOUD"}, "DEBUG, INFO")],
)  # fmt: skip
def test_a_wrong_setting_is_one_line(environment: dict[str, str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "client.gateway"], env=os.environ | environment, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_a_taken_port_is_one_line(gateway: RunningGateway) -> None:
    port = gateway.url.rsplit(":", 1)[1]
    done = subprocess.run(
        [sys.executable, "-m", "client.gateway"], env=os.environ | {"GATEWAY_PORT": port}, capture_output=True,
        text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and f"127.0.0.1:{port} cannot be used" in done.stderr and done.stderr.count("\n") == 1


# pure parts
def test_retry_after_comes_from_the_queue() -> None:
    assert relay.wait_seconds(waiting=99, finished=50, over=10) == 20
    assert relay.wait_seconds(waiting=0, finished=500, over=10) == 1
    assert relay.wait_seconds(waiting=10_000, finished=1, over=10) == relay.LONGEST
    assert relay.wait_seconds(waiting=5, finished=0, over=10) == relay.NO_IDEA
    text = '# TYPE a counter\na{x="1"} 2\na{x="2"} 3\nvllm:b 0.5\n'
    assert relay.totals(text) == {"a": 5.0, "vllm:b": 0.5}


def test_a_budget_refills_with_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    key = auth.Key("k", auth._digest("x"), per_minute=60, at=0)
    here, there = (auth.Keys((key,), tmp_path / "budgets") for _ in range(2))
    here.charge(key, 90)
    with pytest.raises(ApiError) as caught:
        there.admit(key)
    assert caught.value.retry_after == 31
    now[0] += 31
    there.admit(key)


def test_key_files_are_checked(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("only-a-name\n")
    with pytest.raises(SettingsError, match=r"k:1: write `NAME KEY`"):
        auth.load(Settings(api_keys_file=str(tmp_path / "k")))
    (tmp_path / "k").write_text("# nobody\n")
    with pytest.raises(SettingsError, match="holds no key"):
        auth.load(Settings(api_keys_file=str(tmp_path / "k")))


def test_the_documents_tables_are_the_codes() -> None:
    text = coverage.DOCUMENT.read_text(encoding="utf-8")
    assert coverage.filled(text) == text, "run: python -m client.gateway.coverage"
    assert text.count("| `messages` |") == 1


def test_the_openapi_document_names_what_exists() -> None:
    document = openapi.document()
    references = [part.split('"')[0] for part in json.dumps(document).split('"$ref": "#/components/schemas/')[1:]]
    assert set(references) <= set(document["components"]["schemas"])
