"""Many streams at once: complete, in order, not mixed up; and nothing is left of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import psutil
import pytest

from client import Client, Options
from client.sequences import collect
from contract.errors import InvalidRequest
from serving.runtimes import simulated
from tests.conftest import Server
from tests.triton.calls import aio_answers, generate

pytestmark = pytest.mark.triton
Says = Callable[[str, int, int], str]
TEXTS = ("Hello", "你好，世界", "مرحبا", "👩‍👩‍👧‍👦", "def f(x):\n    return x")
GAUGES = ("qwen_slots_used", "qwen_kv_blocks_used", "vllm:num_requests_running", "vllm:num_requests_waiting")


@pytest.mark.parametrize("stream", [False, True])
def test_ids_in_and_out(server: Server, stream: bool) -> None:
    """What comes as ids reaches the engine unchanged; prompt and answer together are a prompt that goes on."""
    prompt = [0, 0, 0, 151644, 9707]
    with Client(server.grpc) as client:
        options = Options(max_tokens=6, seed=3, return_prompt_ids=True)
        whole = (
            collect("", options, list(client.stream(prompt, options))) if stream else client.generate(prompt, options)
        )
        text = client.generate("Hello, world", Options(max_tokens=1, return_prompt_ids=True))
        again = client.generate(text.prompt_ids, Options(max_tokens=1, return_prompt_ids=True))
        cut = client.generate(prompt, Options(max_tokens=1, return_prompt_ids=True, truncate_prompt_tokens=2))
        with pytest.raises(InvalidRequest, match=r"^prompt: 152064 is not a token id"):
            client.generate([5, 152064], options)
    assert whole.prompt_ids == tuple(prompt) and whole.prompt_tokens == 5
    assert list(whole.choices[0].token_ids) == simulated.tokens(prompt, 3, 6)
    assert text.prompt_ids == again.prompt_ids
    assert (cut.prompt_ids, cut.prompt_tokens) == (tuple(prompt[-2:]), 2)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 2])
def test_log_probabilities_of_the_prompt(server: Server, stream: bool, max_tokens: int) -> None:
    prompt, options = [5, 6, 7], Options(max_tokens=max_tokens, prompt_logprobs=True, prompt_top_logprobs=2, n=2)
    with Client(server.grpc) as client:
        chunks = list(client.stream(prompt, options)) if stream else []
        result = collect("", options, chunks) if stream else client.generate(prompt, options)
        (plain,) = client.generate(prompt, Options(max_tokens=1)).choices
    assert result.prompt_logprobs == (-1.0, -0.5)
    assert result.prompt_top_logprobs == (((6, -1.0), (7, -2.0)), ((7, -0.5), (8, -1.5)))
    assert [choice.completion_tokens for choice in result.choices] == [max_tokens] * 2
    assert [len(choice.token_ids) for choice in result.choices] == [max_tokens] * 2
    assert plain.completion_tokens == 1


def test_the_named_outputs_of_a_scored_prompt(server: Server) -> None:
    body = {"text_input": "Hello, world", "max_tokens": 0, "return_prompt_log_probs": True, "return_prompt_ids": True}
    status, answer = generate(server.http, body)
    assert status == 200 and answer["completion_tokens"] == 0 and answer["finish_reason"] == "length"
    count = answer["prompt_tokens"]
    assert (
        len(answer["prompt_ids"]) == count
        and len(answer["prompt_log_probs"]) == len(answer["prompt_ranks"]) == count - 1
    )


def is_free(server: Server) -> bool:
    return all(server.metric(name) == 0 for name in GAUGES)


async def run_streams(server: Server, count: int, tokens: int, says: Says, prefix: str, connections: int = 8) -> None:
    """``count`` streams over a few connections; every one must be exactly what its prompt and seed say."""
    dice = random.Random(prefix)
    requests = [
        {
            "request_id": f"{prefix}{i}", "text_input": f"{dice.choice(TEXTS)} {i}", "seed": i, "stream": True,
            "max_tokens": dice.randint(1, tokens),
        }
        for i in range(count)
    ]  # fmt: skip
    parts = [requests[i::connections] for i in range(connections)]
    answers = {}
    for part in await asyncio.gather(*(aio_answers(server.grpc, part) for part in parts)):
        answers.update(part)
    for request in requests:
        answer = answers[request["request_id"]]
        assert answer.text == says(request["text_input"], request["seed"], request["max_tokens"])
        assert answer.in_order and answer.finish == "length" and answer.completion_tokens == request["max_tokens"]


async def test_200_concurrent_streams(server: Server, says: Says) -> None:
    await run_streams(server, 200, 60, says, "many")
    server.wait_for(lambda: is_free(server), 10)


def memory(server: Server) -> dict[str, float]:
    """Private MB of every process by role; shared pages counted once, where they belong."""
    processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    return {
        f"{process.pid} {' '.join(process.cmdline())[-60:]}": process.memory_full_info().uss / 2**20
        for process in processes
    }


async def test_1000_short_streams_leave_memory_level_and_everything_free(server: Server, says: Says) -> None:
    """A thread that malloc gives an arena of its own makes one step of 5 MB, once; what leaks grows every time."""
    await run_streams(server, 1200, 4, says, "warm")  # allocators and pools reach their size
    grown: dict[str, tuple[float, float]] = {}
    for number in range(3):
        before = memory(server)
        await run_streams(server, 1000, 4, says, f"short{number}-")
        server.wait_for(lambda: is_free(server), 10)
        after = memory(server)
        assert before.keys() == after.keys()
        grown = {name: (before[name], after[name]) for name in before if after[name] > before[name] * 1.05 + 1}
        if not grown:
            return
    raise AssertionError(f"MB before and after the third thousand: {grown}")
