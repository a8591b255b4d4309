"""What one caller may take: keys and their token budgets, open requests, bodies that never end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import re
import socket
import time
from pathlib import Path

import httpx

from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.bodies import CHAT, ask
from tests.serving.gateway.conftest import Start
from tests.waiting import until


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
    for key, status in (("sk-one", 200), ("sk-wrong", 401)):  # as Anthropic's clients send it
        found = httpx.get(f"{gateway.url}/v1/models", headers={"x-api-key": key}, trust_env=False)
        assert found.status_code == status
    statuses = [post("sk-two") for _ in range(4)]  # 12 tokens each, of 20, over both workers
    assert [s.status_code for s in statuses] == [200, 200, 429, 429]
    assert int(statuses[-1].headers["retry-after"]) >= 2
    assert "sk-one" not in gateway.log.read_text()


def test_what_needs_no_key_is_what_the_docs_say(own_gateway: Start) -> None:
    gateway = own_gateway(GATEWAY_API_KEYS="sk-one")
    with httpx.Client(base_url=gateway.url, trust_env=False) as web:
        paths = web.get("/openapi.json").json()["paths"]
        gets = ["/", *(path for path, methods in paths.items() if "get" in methods)]
        status = {path: web.get(path).status_code for path in gets}
    assert len(gets) > 10 and set(status.values()) == {200, 401}
    said = Path("docs/gateway.md").read_text().partition("everything but")[2].partition("needs one")[0]
    without = {path for path, code in status.items() if code == 200}
    assert {*without, "/static", "/openapi.json"} == set(re.findall(r"`(.+?)`", said))


def test_a_router_without_a_key_reads_the_models_where_that_is_open(own_gateway: Start) -> None:
    gateway = own_gateway(GATEWAY_API_KEYS="sk-one", GATEWAY_OPEN_MODELS="1")
    with httpx.Client(base_url=gateway.url, trust_env=False) as web:
        assert web.get("/v1/models").json()["data"] and web.get("/v1/models/qwen").status_code == 401
        assert web.get("/v1/models", headers={"authorization": "Bearer sk-wrong"}).status_code == 401
        assert web.post(CHAT, json=ask("SAY x")).status_code == web.get("/metrics").status_code == 401


def test_too_many_open_requests_get_429(own_gateway: Start, fake: FakeTriton) -> None:
    gateway = own_gateway(GATEWAY_MAX_OPEN_REQUESTS="2", GATEWAY_WORKERS="1")
    with httpx.Client(base_url=gateway.url, trust_env=False) as web:
        with held(web, fake, 2):
            busy = web.post(CHAT, json=ask("SAY x"))
            assert busy.status_code == 429 and int(busy.headers["retry-after"]) >= 1
        fake.wait_free()
        assert web.post(CHAT, json=ask("SAY x")).status_code == 200


def test_half_sent_bodies_hold_no_slot(own_gateway: Start, fake: FakeTriton) -> None:
    gateway = own_gateway(GATEWAY_MAX_OPEN_REQUESTS="2", GATEWAY_WORKERS="1")
    with httpx.Client(base_url=gateway.url, trust_env=False) as web, contextlib.ExitStack() as open_ones:
        for _ in range(20):
            raw = socket.create_connection((web.base_url.host, web.base_url.port or 0))
            open_ones.enter_context(raw)
            raw.sendall(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{" % CHAT.encode())
        time.sleep(0.2)
        assert web.post(CHAT, json=ask("SAY x")).status_code == 200


def test_parallel_requests_do_not_pass_a_budget_together(own_gateway: Start, fake: FakeTriton, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("carol sk-three 300\n")
    gateway = own_gateway(GATEWAY_API_KEYS_FILE=str(tmp_path / "keys"))
    fake.step_ms = 50

    def post(_: int) -> int:
        headers = {"authorization": "Bearer sk-three"}
        return httpx.post(
            gateway.url + CHAT, json=ask("SLOW 3"), headers=headers, trust_env=False, timeout=30
        ).status_code

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(post, range(20)))
    assert statuses.count(200) == 1 and statuses.count(429) == 19


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
        until(lambda: len(self._fake.live) >= self._count)

    def __exit__(self, *_: object) -> None:
        for raw in self._sockets:
            raw.close()
