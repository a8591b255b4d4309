"""The client library and the gateway in front of the real Triton with the simulated engine."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import urllib.request
from typing import Any

import httpx
import openai
import pytest

from client import AsyncClient, Client, Options, errors
from serving.runtimes import simulated
from tests.waiting import until

pytestmark = pytest.mark.triton
FREE = 0.2  # seconds in which the slot of a client that left is free, by the engine's own gauge
CHAT: list[Any] = [{"role": "user", "content": "Tell me a story"}]


def running(server: Any) -> int:
    """Sequences in the engine, by its own gauge."""
    with urllib.request.urlopen(server.metrics, timeout=5) as response:
        text = response.read().decode()
    found = re.search(r"^vllm:num_requests_running(?:\{[^}]*\})? (\S+)", text, re.MULTILINE)
    assert found, text
    return int(float(found.group(1)))


def wait_running(server: Any, count: int, seconds: float) -> float:
    return until(lambda: running(server) == count, seconds, lambda: f"{running(server)} running, not {count}")


def test_one_prompt_is_one_text_over_every_path(server: Any) -> None:
    options = Options(max_tokens=24, temperature=0.0, seed=5)
    with Client(server.grpc) as grpc, Client(server.gateway) as http:
        streamed = list(grpc.stream(CHAT, options))
        texts = {
            "".join(c.text for c in streamed),
            grpc.generate(CHAT, options).text,
            http.generate(CHAT, options).text,
        }
        texts.add("".join(c.text for c in http.stream(CHAT, options)))
        assert len(texts) == 1
        assert streamed[-1].completion_tokens == 24 and streamed[-1].finish_reason == "length"
        assert sum(len(c.token_ids) for c in streamed) == 24
        whole = grpc.generate(CHAT, Options(max_tokens=5, n=3))
    assert [c.completion_tokens for c in whole.choices] == [5, 5, 5]


def test_token_ids_end_as_vllms_do(server: Any) -> None:
    """With the token that ended the answer, also among the log probabilities, and as many as ``usage`` counts."""
    prompt, url = [1, 2, 3], f"{server.gateway}/v1/completions"
    made = simulated.tokens(prompt, 5, 8)
    plain = {"prompt": prompt, "seed": 5, "max_tokens": 8, "logprobs": 0, "return_token_ids": True}
    ends = {"stop_token_ids": [made[4]]}
    with Client(server.grpc) as client:
        fourth = client.generate(prompt, Options(max_tokens=4, seed=5)).text
    for more, count, text in (
        (ends, 5, fourth),
        ({**ends, "stream_options": {"include_usage": True}, "stream": True}, 5, fourth),
        ({**ends, "return_end_token": False}, 4, fourth),
        ({**ends, "ignore_eos": True}, 5, fourth),
        ({**ends, "stop": [fourth[-1]], "include_stop_str_in_output": True}, 4, fourth),
        ({**ends, "max_tokens": 4}, 4, fourth),
    ):
        answer = httpx.post(url, json=plain | more)
        assert answer.status_code == 200, answer.text
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")] or [answer.text]
        events = [json.loads(line) for line in lines]
        choices = [choice for event in events for choice in event["choices"]]
        ids = [token for choice in choices for token in choice.get("token_ids") or ()]
        scores = [p for choice in choices if choice["logprobs"] for p in choice["logprobs"]["token_logprobs"]]
        assert ids == made[:count] and len(scores) == count, more
        assert events[-1]["usage"]["completion_tokens"] == count + (not more.get("return_end_token", True))
        assert "".join(choice["text"] for choice in choices) == text


@pytest.mark.parametrize("transport", ["grpc", "gateway"])
@pytest.mark.parametrize("wanted", [True, False])
def test_both_transports_have_the_end_token_where_it_is_asked_for(server: Any, transport: str, wanted: bool) -> None:
    prompt = [1, 2, 3]
    made = simulated.tokens(prompt, 5, 5)
    options = Options(max_tokens=8, seed=5, stop_token_ids=(made[4],), return_end_token=wanted, logprobs=True)
    with Client(getattr(server, transport)) as client:
        (whole,) = client.generate(prompt, options).choices
        streamed = list(client.stream(prompt, options))
    count = 5 if wanted else 4
    assert list(whole.token_ids) == [i for chunk in streamed for i in chunk.token_ids] == made[:count]
    assert len(whole.logprobs) == count and whole.completion_tokens == 5


async def test_two_hundred_streams_are_whole(server: Any) -> None:
    async with AsyncClient(server.grpc) as client:
        answers = await client.batch([CHAT] * 200, Options(max_tokens=16), concurrency=200)
    assert [a.completion_tokens for a in answers if not isinstance(a, errors.ClientError)] == [16] * 200


async def test_cancelling_frees_the_slot(server: Any) -> None:
    """The best of five, here and below: the machine may be busy, the server is not."""
    seconds = []
    async with AsyncClient(server.grpc) as client:
        for _ in range(5):
            stream = client.stream(CHAT, Options(max_tokens=20_000))
            await stream.__anext__()
            await asyncio.to_thread(wait_running, server, 1, 5.0)
            stream.cancel()
            seconds.append(await asyncio.to_thread(wait_running, server, 0, 3.0))
    assert min(seconds) < FREE, seconds


def test_a_browser_that_leaves_frees_the_slot(server: Any) -> None:
    seconds = []
    for _ in range(5):
        with httpx.stream(
            "POST", f"{server.gateway}/v1/chat/completions", trust_env=False,
            json={"messages": CHAT, "max_tokens": 20_000, "stream": True},
        ) as response:  # fmt: skip
            lines = response.iter_lines()  # kept: dropping it would close the connection
            next(lines)
            wait_running(server, 1, 5.0)
        seconds.append(wait_running(server, 0, 3.0))
    assert min(seconds) < FREE, seconds


def test_errors_come_through_with_field_and_status(server: Any) -> None:
    with Client(server.grpc) as client:
        with pytest.raises(errors.InvalidRequest) as caught:
            client.generate(CHAT, Options(top_p=2.0))
        assert caught.value.field == "top_p"
        with pytest.raises(errors.InvalidRequest, match=r"\d+ tokens"):
            client.generate("word " * 200_000)
        with pytest.raises(errors.Unsupported):
            client.generate(CHAT, Options(guide_type="json"))
        assert client.generate(CHAT, Options(max_tokens=2)).completion_tokens == 2
    sdk = openai.OpenAI(base_url=f"{server.gateway}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(model="qwen", messages=CHAT, top_p=2.0)
    assert bad.value.param == "top_p"
    with pytest.raises(openai.BadRequestError) as unsupported:
        sdk.chat.completions.create(model="qwen", messages=CHAT, response_format={"type": "json_object"})
    assert (unsupported.value.param, unsupported.value.code) == ("response_format", "unsupported")
    with pytest.raises(openai.BadRequestError) as too_long:
        sdk.chat.completions.create(model="qwen", messages=[{"role": "user", "content": "word " * 200_000}])
    assert too_long.value.code == "context_length_exceeded"


def test_health_tokenize_and_metrics(server: Any) -> None:
    with httpx.Client(base_url=server.gateway, trust_env=False, timeout=30) as web:
        assert web.get("/health/generate").json()["status"] == "generates"
        asked = web.post("/tokenize", json={"messages": CHAT}).json()
        usage = web.post("/v1/chat/completions", json={"messages": CHAT, "max_tokens": 1}).json()["usage"]
        counted = web.post("/v1/messages/count_tokens", json={"messages": CHAT}).json()
        sized = web.post("/v1/responses/input_tokens", json={"input": CHAT}).json()
        assert asked["count"] == counted["input_tokens"] == usage["prompt_tokens"] == sized["input_tokens"]
        wrong = web.post("/v1/responses/input_tokens", json={"input": []}).json()["error"]
        assert (wrong["param"], sized["object"]) == ("input", "response.input_tokens")
        assert "vllm:kv_cache_usage_perc" in web.get("/metrics").text


def test_a_half_open_connection_does_not_keep_its_slot(server: Any) -> None:
    host, port = server.gateway.removeprefix("http://").split(":")
    body = b'{"prompt": "x", "max_tokens": 20000, "stream": true}'
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        raw.recv(100)
        wait_running(server, 1, 5.0)
        raw.shutdown(socket.SHUT_WR)  # says it will send no more: for a server that is a client gone
        wait_running(server, 0, 2.0)
