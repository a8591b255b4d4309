"""``repetition_detection`` in each API: vLLM's object in, the tensor out, an end that says why."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from client import Client, Options
from tests.client.fake_triton import FakeTriton

WANTED = {"max_pattern_size": 8, "min_count": 3}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "LOOP a"}], "max_tokens": 4}


@pytest.mark.parametrize("stream", [False, True])
def test_every_api_has_it_and_says_why_the_answer_ended(web: httpx.Client, fake: FakeTriton, stream: bool) -> None:
    more = {"repetition_detection": WANTED, "stream": stream}
    chat = web.post("/v1/chat/completions", json=CHAT | more).text
    text = web.post("/v1/completions", json={"prompt": "LOOP a", "max_tokens": 4} | more).text
    for said in (chat, text):  # both words are vLLM's
        assert '"finish_reason":"repetition"' in said and '"stop_reason":"repetition_detected"' in said
    responses = web.post("/v1/responses", json={"input": "LOOP a", "max_output_tokens": 4} | more).text
    assert '"status":"incomplete"' in responses and '"incomplete_details":{"reason":"repetition"}' in responses
    assert '"stop_reason":"repetition"' in web.post("/v1/messages", json=CHAT | more).text
    assert [request["repetition_detection"] for request in fake.requests] == [[8, 0, 3]] * 4


@pytest.mark.parametrize("off", [None, {}, {"max_pattern_size": 0, "min_count": 0}])
def test_it_is_off_unless_asked_for(web: httpx.Client, fake: FakeTriton, off: Any) -> None:
    answer = web.post("/v1/chat/completions", json=CHAT | {"repetition_detection": off}).json()
    assert answer["choices"][0]["finish_reason"] == "length" and "repetition_detection" not in fake.requests[0]


def test_a_wrong_one_is_named(web: httpx.Client) -> None:
    answer = web.post("/v1/chat/completions", json=CHAT | {"repetition_detection": {"max_ngram": 3}})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "repetition_detection.max_ngram"


def test_the_client_library_over_http(web: httpx.Client, fake: FakeTriton) -> None:
    with Client(str(web.base_url)) as client:
        result = client.generate(
            [{"role": "user", "content": "LOOP a"}], Options(max_tokens=3, repetition_detection=(8, 1, 3))
        )
    assert result.finish_reason == "repetition" and fake.requests[0]["repetition_detection"] == [8, 1, 3]
