"""Over HTTP: an answer whose Triton dies goes on at a peer, and its reader sees one answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.channels import AVOID_SECONDS
from serving.gateway.core.restart import MOST_RESTARTS
from serving.outage import Outage
from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.conftest import start_gateway, tiny_engine
from tests.waiting import until

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


class Launched:
    """A gateway whose one Triton is restarted by a launcher: this class, which keeps the readiness file."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.triton = FakeTriton(step_ms=20).start()
        self.word = folder / "home" / "readiness"
        self.word.parent.mkdir()
        self.word.write_text("")
        engine, word = str(tiny_engine(folder)), str(self.word)
        self.gateway = start_gateway(
            folder, self.triton, GATEWAY_WORKERS="1", ENGINE_DIR=engine, GATEWAY_READINESS_FILE=word, **settings
        )

    def say(self, why: str) -> None:
        self.word.with_suffix(".new").write_text(Outage(why).dump())
        self.word.with_suffix(".new").replace(self.word)

    def kill(self) -> None:
        self.triton.stop()
        self.say("restarting: it died")

    def restart(self) -> None:
        self.triton = FakeTriton(port=self.triton.port).start()
        self.say("")

    def lines(self, **more: Any) -> Iterator[str]:
        with httpx.stream(
            "POST", f"{self.gateway.url}/v1/chat/completions", json=BODY | {"stream": True} | more, timeout=30,
            trust_env=False,
        ) as answer:  # fmt: skip
            yield from (line for line in answer.iter_lines() if line.startswith("data: {"))


@pytest.fixture
def launched(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Launched]:
    running = Launched(tmp_path, **getattr(request, "param", {}))
    yield running
    running.gateway.stop()
    running.triton.stop()


def text_of(line: str) -> str:
    return "".join(c["delta"].get("content") or "" for c in json.loads(line[6:])["choices"])


def test_a_stream_goes_on_after_a_restart(launched: Launched) -> None:
    """Its client may not have a library that resumes: it sees a pause."""
    lines = launched.lines()
    seen = [next(lines) for _ in range(5)]
    launched.kill()
    until(lambda: "waits for a restart" in launched.gateway.log.read_text())
    launched.restart()
    seen += lines
    assert "".join(map(text_of, seen)) == WORDS
    assert launched.triton.requests[0]["resume_ids"] == list(range(len(launched.triton.requests[0]["resume_ids"])))


@pytest.mark.parametrize("launched", [{"GATEWAY_STALL_SECONDS": "2"}], indirect=True)
def test_a_restart_may_take_longer_than_the_engine_may_be_silent(launched: Launched) -> None:
    """A 7B engine on a GPU takes a minute."""
    lines = launched.lines()
    seen = [next(lines) for _ in range(5)]
    launched.kill()
    until(lambda: "waits for a restart" in launched.gateway.log.read_text())
    time.sleep(3.0)  # longer than the limit and the tick that enforces it
    launched.restart()
    seen += lines
    assert "".join(map(text_of, seen)) == WORDS


@pytest.mark.parametrize("launched", [{"GATEWAY_FIRST_TOKEN_SECONDS": "1"}], indirect=True)
def test_a_restart_that_takes_too_long_is_told(launched: Launched) -> None:
    lines = launched.lines()
    seen = [next(lines) for _ in range(5)]
    launched.kill()
    seen += lines
    launched.restart()
    assert json.loads(seen[-1][6:])["error"]["code"] in ("engine_unavailable", "timeout")


def test_an_answer_that_ends_its_engine_each_time_does_so_four_times_at_most(launched: Launched) -> None:
    launched.triton.dies_at = 3
    lines = launched.lines()
    next(lines)
    launched.say("restarting: it died")
    ending = threading.Thread(target=lambda: [*lines], daemon=True)
    ending.start()
    while ending.is_alive():
        launched.say("restarting: it died")
        ending.join(0.7)
        launched.say("")
        ending.join(0.7)
    assert len(launched.triton.requests) <= 1 + MOST_RESTARTS


def test_a_request_that_has_no_token_yet_fails_at_once(launched: Launched) -> None:
    """Its client, or a router, can ask again; so can it."""
    launched.triton.refuses = "in ensemble 'qwen', [engine_unavailable] engine: it died"
    asked = httpx.post(f"{launched.gateway.url}/v1/chat/completions", json=BODY | {"stream": True}, timeout=30)
    assert asked.status_code == 503 and len(launched.triton.requests) == 1
