"""The whole ensemble on the real Triton, TensorRT-LLM's place taken by the stand-in: requests, refusals, cancel.

What it shows: the adapter inside Triton's Python stub, its capabilities reaching the caller, the launcher's check of
the machine. What it cannot show: anything of the GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.conftest import Server, start_server, stop_server
from tests.serving.runtimes.tensorrt_llm.harness import pretend_h100, write_engine_directory

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def trtllm(tmp_path_factory) -> Iterator[Server]:
    """`make serve` of an engine directory, on a machine that claims an H100."""
    folder = tmp_path_factory.mktemp("trtllm")
    engine = write_engine_directory(folder / "engine")
    with pytest.MonkeyPatch.context() as patch:
        pretend_h100(folder, patch)
        running = start_server(folder / "serve.log", "--engine", str(engine), gateway=True)
    yield running
    stop_server(running)


@pytest.fixture
def chat(trtllm) -> Callable[..., httpx.Response]:
    def ask(**fields) -> httpx.Response:
        body = {"model": "qwen2.5-7b-instruct", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 12}
        return httpx.post(f"{trtllm.gateway}/v1/chat/completions", json=body | fields, timeout=60)

    return ask


def test_an_answer_counts_its_tokens(chat):
    answer = chat(temperature=0).json()
    assert answer["usage"]["completion_tokens"] == 12 and answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"]


def test_streaming_gives_the_same_text(chat):
    whole = chat(temperature=0).json()["choices"][0]["message"]["content"]
    events = [line[6:] for line in chat(temperature=0, stream=True).text.splitlines() if line.startswith("data: {")]
    parts = [json.loads(event)["choices"] for event in events]
    assert "".join(choice["delta"].get("content") or "" for choices in parts for choice in choices) == whole


def test_what_an_engine_cannot_honour_is_refused_and_named(chat):
    refused = chat(logprobs=True, top_logprobs=2)
    assert refused.status_code == 400 and "logprobs" in refused.json()["error"]["message"]


def test_a_schema_and_penalties_are_accepted(chat):
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    assert chat(response_format=schema).status_code == 200
    assert chat(frequency_penalty=0.5, presence_penalty=0.1, seed=3).status_code == 200


def test_a_client_that_leaves_frees_its_slot(trtllm, chat):
    body = {"model": "qwen2.5-7b-instruct", "messages": [{"role": "user", "content": "long"}], "max_tokens": 8000}
    url = f"{trtllm.gateway}/v1/chat/completions"
    with httpx.stream("POST", url, json=body | {"stream": True}, timeout=60) as response:
        lines = response.iter_lines()  # kept: dropping it closes the connection
        next(lines)
        trtllm.wait_for(lambda: trtllm.metric("qwen_slots_used") == 1, 10)
    trtllm.wait_for(lambda: trtllm.metric("qwen_slots_used") == 0, 15)
