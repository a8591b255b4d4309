"""One tenant's flood and another one's request, through two workers; a bounded queue; keys pay for what they leave."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.bodies import CHAT
from tests.serving.gateway.conftest import RunningGateway, Start
from tests.waiting import until


@pytest.fixture
def places(fake: FakeTriton) -> FakeTriton:
    """An engine that decodes four sequences at once."""
    fake.places, fake.waiting = 4, 0
    return fake


def post(gateway: RunningGateway, prompt: str, **more: object) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": prompt}], **more}
    with httpx.Client(trust_env=False, verify=False, timeout=60) as client:
        return client.post(gateway.url + CHAT, json=body)


def test_a_flood_waits_behind_a_single_request(own_gateway: Start, places: FakeTriton) -> None:
    gateway = own_gateway()
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        flood = [pool.submit(post, gateway, "SLOW 0.3", user="flood", stream=True) for _ in range(60)]
        until(lambda: len(places.live) >= 4)
        time.sleep(0.3)  # all 60 are here
        assert len(places.live) <= 6, "places, and a short queue in the engine"
        assert post(gateway, "SAY hello", user="single").status_code == 200
        assert sum(not request.done() for request in flood) > 20
        assert {request.result().status_code for request in flood} == {200}


def test_a_request_that_gets_no_place_is_told_when_to_come_again(own_gateway: Start, places: FakeTriton) -> None:
    gateway = own_gateway(GATEWAY_FIRST_TOKEN_SECONDS="1", GATEWAY_WORKERS="1", GATEWAY_KEEPALIVE_SECONDS="30")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(6):
            pool.submit(post, gateway, "SLOW 60", max_tokens=1)
        until(lambda: len(places.live) == 6)
        for stream in (True, False):
            refused = post(gateway, "SAY x", stream=stream)
            assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
            assert "no place" in refused.json()["error"]["message"]
        places.release()
    assert "SAY x" not in str(places.requests), "it never reached the engine"


def test_a_promise_that_cannot_be_kept_is_not_made(own_gateway: Start, places: FakeTriton) -> None:
    gateway = own_gateway(GATEWAY_TTFT_LIMIT="2", GATEWAY_WORKERS="1")
    enough = threading.Event()

    def keep_asking() -> None:
        while not enough.wait(0.05):
            post(gateway, "SLOW 1", max_tokens=1, user="flood")

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        flood = [pool.submit(keep_asking) for _ in range(40)]
        latest = time.monotonic() + 60
        while (refused := post(gateway, "SLOW 1", max_tokens=1, user="flood")).status_code == 200:
            assert time.monotonic() < latest
        enough.set()
        begin, error = time.monotonic(), refused.json()["error"]
        predicted = float(error["message"].split("about ")[1].split(" s")[0])
        assert refused.status_code == 429 and error["code"] == "ttft_limit" and predicted >= 2  # rounded
        assert abs(int(refused.headers["retry-after"]) - (predicted - 2)) <= 1.1
        assert post(gateway, "SAY x", user="single").status_code == 200, "another tenant's place is near"
        for request in flood:
            request.result()
        assert predicted / 3 < time.monotonic() - begin < predicted * 3, "it was a true prediction"
    assert post(gateway, "SAY x", user="flood").status_code == 200


def test_keys_do_not_share_cached_prefixes(own_gateway: Start, fake: FakeTriton, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a sk-a\nb sk-b\n")
    fake.salted = 1
    gateway = own_gateway(GATEWAY_API_KEYS_FILE=str(tmp_path / "keys"), GATEWAY_WORKERS="1")

    def salt(key: str, **more: object) -> str:
        fake.requests.clear()
        body = {"messages": [{"role": "user", "content": "SAY x"}], **more}
        headers = {"authorization": f"Bearer {key}"}
        assert httpx.post(gateway.url + CHAT, json=body, headers=headers, trust_env=False).status_code == 200
        return str(fake.requests[0]["cache_salt"])

    salts = [salt("sk-a"), salt("sk-b"), salt("sk-a", cache_salt="mine"), salt("sk-b", cache_salt=salt("sk-a"))]
    assert len(set(salts)) == 4 and salt("sk-a") == salts[0]
    assert "sk-a" not in salts[0]


def test_an_engine_without_salts_gets_none(web: httpx.Client, fake: FakeTriton) -> None:
    assert web.post(CHAT, json={"messages": [{"role": "user", "content": "SAY x"}]}).status_code == 200
    assert "cache_salt" not in fake.requests[0]


def test_a_key_pays_for_what_it_leaves(own_gateway: Start, fake: FakeTriton, tmp_path: Path) -> None:
    """Of streams and of whole answers, at once."""
    (tmp_path / "keys").write_text("carol sk-three 2500\ndora sk-four 2500\n")
    gateway = own_gateway(GATEWAY_API_KEYS_FILE=str(tmp_path / "keys"), GATEWAY_WORKERS="1")
    about_1000_tokens = {"role": "system", "content": "four" * 1000}
    body = {"messages": [about_1000_tokens, {"role": "user", "content": "SLOW 30"}], "max_tokens": 8}

    def leave_early(key: str, stream: bool) -> int:
        with httpx.Client(trust_env=False, verify=False, headers={"authorization": f"Bearer {key}"}) as client:
            try:
                return client.post(gateway.url + CHAT, json=body | {"stream": stream}, timeout=0.5).status_code
            except httpx.ReadTimeout:
                return 0

    def six(key: str, stream: bool) -> list[int]:
        return [leave_early(key, stream) for _ in range(6)]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(six, ("sk-three", "sk-four"), (True, False))) == [[0, 0, 0, 429, 429, 429]] * 2
