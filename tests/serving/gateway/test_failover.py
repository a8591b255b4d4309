"""Over HTTP: an answer whose Triton dies goes on at a peer, and its reader sees one answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from client.channels import AVOID_SECONDS
from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.conftest import start_gateway, tiny_engine

TOKENS = 40
WORDS = " ".join(f"w{i}" for i in range(TOKENS))
BODY = {"model": "qwen", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": TOKENS}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FakeTriton, FakeTriton]]:
    home, peer = FakeTriton().start(), FakeTriton().start()
    folder = tmp_path_factory.mktemp("gateway")
    engine = str(tiny_engine(folder))
    gateway = start_gateway(folder, home, GATEWAY_PEERS=peer.grpc, GATEWAY_WORKERS="1", ENGINE_DIR=engine)
    yield gateway.url, home, peer
    gateway.stop()
    home.stop()
    peer.stop()


def ask(url: str, **more: Any) -> tuple[str, dict[str, Any], int]:
    """Text, usage and number of events of a streamed answer."""
    body = BODY | {"stream": True, "stream_options": {"include_usage": True}} | more
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30, trust_env=False)
    assert answer.status_code == 200 and answer.text.rstrip().endswith("[DONE]"), answer.text
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert not any("error" in event for event in events), events[-1]
    text = "".join(c["delta"].get("content") or "" for event in events for c in event["choices"])
    return text, events[-1]["usage"], len(events)


@pytest.mark.parametrize("dies_at", [1, 17, TOKENS - 1])
@pytest.mark.parametrize("more", [{}, {"logprobs": True}], ids=["plain", "logprobs"])
def test_a_stream_goes_on_at_a_peer(
    served: tuple[str, FakeTriton, FakeTriton], dies_at: int, more: dict[str, Any]
) -> None:
    url, home, peer = served
    home.dies_at = 0
    undisturbed = ask(url, **more)
    home.dies_at = dies_at
    home.requests.clear()
    peer.requests.clear()
    broken = ask(url, **more)
    assert broken == undisturbed and broken[0] == WORDS and broken[1]["completion_tokens"] == TOKENS
    if home.requests:  # else the home was still avoided after the case before
        assert peer.requests[0]["resume_ids"] == list(range(dies_at))


@pytest.mark.parametrize(
    ("more", "reason"), [({}, "resume_ids: the loaded engine cannot"), ({"n": 2}, "only answers with n = 1 do")]
)
def test_an_answer_that_cannot_go_on_says_why(
    served: tuple[str, FakeTriton, FakeTriton], more: dict[str, Any], reason: str
) -> None:
    url, home, peer = served
    home.dies_at, peer.dies_at = 3, 0
    peer.refuses = "[unsupported] resume_ids: the loaded engine cannot honour it"
    try:
        time.sleep(AVOID_SECONDS)  # since the tests before
        answer = httpx.post(f"{url}/v1/chat/completions", json=BODY | {"stream": True} | more, timeout=30)
    finally:
        home.dies_at, peer.refuses = 0, ""
    error = json.loads(answer.text.rstrip().splitlines()[-1].removeprefix("data: "))["error"]
    assert "it died; the answer cannot be resumed" in error["message"] and reason in error["message"]
    assert error["code"] == "engine_unavailable"
