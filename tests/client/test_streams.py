"""Both clients against a fake Triton: text, order, timeouts, and above all that slots are freed."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import pytest

from client import NO_RETRY, AsyncClient, Client, Options, Retry, Timeouts, errors
from tests.client.fake_triton import FakeTriton

CHAT = [{"role": "user", "content": "hello"}]


def test_streams_text_ids_and_counts(fake: FakeTriton) -> None:
    with Client(fake.grpc) as client:
        chunks = list(client.stream("SAY héllo 世界", Options(max_tokens=50)))
    assert "".join(c.text for c in chunks) == "héllo 世界"
    assert [c.chunk_index for c in chunks] == list(range(len(chunks)))
    assert [c.finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    last = chunks[-1]
    assert (last.finish_reason, last.completion_tokens, last.prompt_tokens, last.cached_tokens) == ("stop", 3, 11, 3)
    assert [i for c in chunks for i in c.token_ids] == [0, 1, 2]


async def test_asyncio_streams_the_same(fake: FakeTriton) -> None:
    async with AsyncClient(fake.grpc) as client:
        chunks = [c async for c in client.stream(CHAT, Options(max_tokens=3))]
    assert [c.text for c in chunks] == ["w0", " w1", " w2"]
    assert chunks[-1].finish_reason == "length"


def test_generate_asks_for_one_response(fake: FakeTriton) -> None:
    with Client(fake.grpc) as client:
        result = client.generate("x", Options(max_tokens=4))
    assert (result.text, result.finish_reason, result.completion_tokens) == ("w0 w1 w2 w3", "length", 4)
    assert fake.requests[0]["stream"] is False
    assert result.request_id == fake.ids[0]


def test_n_sequences_come_back_apart(fake: FakeTriton) -> None:
    with Client(fake.grpc) as client:
        result = client.generate("x", Options(max_tokens=2, n=3))
    assert [c.text for c in result.choices] == ["w0 w1"] * 3
    assert result.completion_tokens == 6


def test_every_option_reaches_its_tensor(fake: FakeTriton) -> None:
    options = Options(
        max_tokens=5, temperature=0.5, top_p=0.25, top_k=7, min_p=0.125, repetition_penalty=1.5, presence_penalty=0.75,
        frequency_penalty=-0.5, seed=2**64 - 1, min_tokens=2, stop=["a", "世"], stop_token_ids=[1, 2],
        include_stop=True, bad_words=["b"], ignore_eos=True, n=2, logit_bias={3: -0.5, 4: 2.0},
        repetition_detection=(8, 1, 3), continue_final_message=True, add_generation_prompt=False,
        logprobs=True, top_logprobs=2, guide_type="regex", guide="a+",
        tools=[{"type": "function"}], priority=1, lora_name="l", allowed_token_ids=[5],
        truncate_prompt_tokens=-1, truncation_side="right",
    )  # fmt: skip
    with Client(fake.grpc) as client:
        chunks = list(client.stream(CHAT, options))
    assert fake.requests[0] == {
        "messages": '[{"role":"user","content":"hello"}]', "stream": True, "packed_output": True,
        "max_tokens": 5, "temperature": 0.5,
        "top_p": 0.25, "top_k": 7, "min_p": 0.125, "repetition_penalty": 1.5, "presence_penalty": 0.75,
        "frequency_penalty": -0.5, "seed": 2**64 - 1, "min_tokens": 2, "stop_words": ["a", "世"],
        "logit_bias_ids": [3, 4], "logit_bias_values": [-0.5, 2.0], "continue_final_message": True,
        "add_generation_prompt": False, "stop_token_ids": [1, 2], "include_stop_str_in_output": True,
        "bad_words": ["b"], "repetition_detection": [8, 1, 3], "ignore_eos": True,
        "num_return_sequences": 2, "return_log_probs": True, "top_logprobs": 2, "guided_decoding_guide_type": "regex",
        "guided_decoding_guide": "a+", "tools": '[{"type":"function"}]', "priority": 1, "lora_name": "l",
        "allowed_token_ids": [5], "truncate_prompt_tokens": -1, "truncation_side": "right",
    }  # fmt: skip
    assert chunks[0].logprobs == (-0.5,)
    assert chunks[0].top_logprobs == (((0, -0.5), (1, -1.5)),)


def test_nothing_is_sent_for_what_was_not_given(fake: FakeTriton) -> None:
    with Client(fake.grpc) as client:
        client.generate("x")
    assert fake.requests[0] == {"text_input": "x", "stream": False}


@pytest.mark.parametrize("retries", [1, 2])
async def test_a_full_queue_is_tried_again_with_a_new_id(fake: FakeTriton, retries: int) -> None:
    fake.busy = 2
    async with AsyncClient(fake.grpc, retry=Retry(attempts=retries + 1, backoff=0.01)) as client:
        if retries < 2:
            with pytest.raises(errors.Overloaded):
                await client.generate("x")
        else:
            assert (await client.generate("x")).text.startswith("w0")
    assert len(set(fake.ids)) == retries + 1


@pytest.mark.parametrize(
    ("prompt", "timeouts", "phase"),
    [
        ("SLOW 5", Timeouts(first_token=0.2), "first token"),
        ("STALL 5", Timeouts(between_chunks=0.2), "between chunks"),
        ("STALL 5", Timeouts(total=0.2), "total"),
    ],
)
async def test_each_timeout_stops_the_request(fake: FakeTriton, prompt: str, timeouts: Timeouts, phase: str) -> None:
    async with AsyncClient(fake.grpc, timeouts=timeouts, retry=NO_RETRY) as client:
        with pytest.raises(errors.RequestTimeout) as caught:
            async for _ in client.stream(prompt):
                continue
    assert caught.value.phase == phase
    await asyncio.to_thread(fake.wait_free)
    blocking = Client(fake.grpc, timeouts=timeouts, retry=NO_RETRY)
    with blocking, pytest.raises(errors.RequestTimeout) as caught:
        await asyncio.to_thread(list, blocking.stream(prompt))
    assert caught.value.phase == phase
    await asyncio.to_thread(fake.wait_free)


@pytest.mark.parametrize("way", ["drop", "close", "with", "throw"])
def test_leaving_a_blocking_stream_frees_the_slot(fake: FakeTriton, way: str) -> None:
    fake.step_ms = 20
    with Client(fake.grpc) as client:
        stream = client.stream("x", Options(max_tokens=1000))
        next(stream)
        if way == "drop":
            del stream
            gc.collect()
        elif way == "close":
            stream.close()
            assert list(stream) == []
        else:
            with pytest.raises(KeyError) if way == "throw" else stream, stream:
                if way == "throw":
                    raise KeyError
        fake.wait_free()
    assert "cancelled" in {reason for _, reason, _ in fake.ended} or fake.ended[0][1] == "disconnected"


@pytest.mark.parametrize("way", ["drop", "aclose", "cancel task", "cancel"])
async def test_leaving_an_asyncio_stream_frees_the_slot(fake: FakeTriton, way: str) -> None:
    fake.step_ms = 20
    async with AsyncClient(fake.grpc) as client:
        stream = client.stream("x", Options(max_tokens=1000))
        await stream.__anext__()
        if way == "drop":
            del stream
            gc.collect()
        elif way == "aclose":
            await stream.aclose()
        elif way == "cancel":
            task = asyncio.create_task(stream.__anext__())
            await asyncio.sleep(0.005)
            stream.cancel()
            with pytest.raises(StopAsyncIteration):
                await task
        else:
            task = asyncio.create_task(client.generate("x", Options(max_tokens=1000)))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await stream.aclose()
        await asyncio.to_thread(fake.wait_free)


def test_cancel_from_another_thread_ends_the_loop(fake: FakeTriton) -> None:
    with Client(fake.grpc) as client:
        stream = client.stream("SLOW 30")
        threading.Timer(0.1, stream.cancel).start()
        begin = time.monotonic()
        assert list(stream) == []
        assert time.monotonic() - begin < 1
        fake.wait_free()


async def test_batch_keeps_order_and_bounds_concurrency(fake: FakeTriton) -> None:
    fake.step_ms = 5
    prompts = [f"SAY {i}" if i != 3 else "ERR invalid_request text_input: bad" for i in range(12)]
    async with AsyncClient(fake.grpc) as client:
        answers = await client.batch(prompts, concurrency=4)
    assert [a if isinstance(a, errors.InvalidRequest) else a.text for a in answers][:3] == ["0", "1", "2"]
    assert isinstance(answers[3], errors.InvalidRequest)
    assert [a.text for a in answers if not isinstance(a, errors.ClientError)] == [str(i) for i in range(12) if i != 3]
    with Client(fake.grpc) as blocking:
        assert [a.text for a in blocking.batch(["SAY a", "SAY b"]) if not isinstance(a, errors.ClientError)] == [
            "a",
            "b",
        ]


async def test_two_hundred_streams_share_a_connection(fake: FakeTriton) -> None:
    async with AsyncClient(fake.grpc) as client:

        async def one(i: int) -> str:
            return "".join([c.text async for c in client.stream(f"SAY {i} {'x' * 30} {i}")])

        texts = await asyncio.gather(*map(one, range(200)))
    assert texts == [f"{i} {'x' * 30} {i}" for i in range(200)]
    assert len(set(fake.ids)) == 200


@pytest.mark.parametrize("address", ["", "ftp://x:1", "localhost", "host:notaport", "grpc://"])
def test_a_wrong_address_is_refused_at_once(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        Client(address)


async def test_a_stop_is_sent_to_the_replica_that_answers(fake: FakeTriton) -> None:
    """Behind a router it would go anywhere."""
    fake.replica, fake.step_ms = "10.0.0.7:8001", 20
    long = Options(max_tokens=500)
    with Client(fake.grpc) as client, client.stream("Hi", long) as stream:
        next(stream)
    async with AsyncClient(fake.grpc) as client, client.stream("Hi", long) as stream:
        await stream.__anext__()
    await asyncio.to_thread(fake.wait_free)
    named = [sent.get("x-replica") for sent in fake.metadata]
    assert named.count(None) == 2 and set(named) == {None, "10.0.0.7:8001"}, named


@pytest.mark.parametrize(("tools", "sent"), [("x", '"x"'), (5, "5"), ({"a": 1}, '{"a":1}'), (iter(["x"]), '["x"]')])
def test_what_is_no_list_of_tools_reaches_the_server_as_it_is(fake: FakeTriton, tools: Any, sent: str) -> None:
    with Client(fake.grpc) as client:
        client.generate([{"role": "user", "content": "Hi"}], Options(max_tokens=1, tools=tools))
    assert fake.requests[0]["tools"] == sent
