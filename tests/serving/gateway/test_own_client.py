"""This project's client over HTTP gives what it gives over gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from client import AsyncClient, Client, Options, Retry, Timeouts, errors
from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.bodies import user
from tests.serving.gateway.conftest import RunningGateway


def test_own_client_gives_the_same_over_http(gateway: RunningGateway, fake: FakeTriton) -> None:
    options = Options(max_tokens=50, logprobs=True, n=2)
    with Client(gateway.url) as http, Client(fake.grpc) as grpc:
        for prompt in ("SAY some text", user("SAY a chat 世界")):
            over_http, over_grpc = http.generate(prompt, options), grpc.generate(prompt, options)
            assert over_http.choices == over_grpc.choices
            assert (over_http.prompt_tokens, over_http.cached_tokens) == (11, 3)
        assert http.generate("SAY x").text == grpc.generate("SAY x").text == "x"
        with pytest.raises(errors.InvalidRequest) as caught:
            http.generate("ERR invalid_request top_p: 2 is above 1")
        assert caught.value.field == "top_p"
        with pytest.raises(errors.InternalError, match="boom"):
            list(http.stream("MID internal_error boom"))


@pytest.mark.parametrize("prompt", ["x", [1, 2], [{"role": "user", "content": "x"}]], ids=["text", "ids", "chat"])
def test_alternatives_are_the_same_over_http(gateway: RunningGateway, fake: FakeTriton, prompt: Any) -> None:
    """By token id, which vLLM's ``return_tokens_as_token_ids`` tells; the text of two may be the same."""
    options = Options(max_tokens=3, logprobs=True, top_logprobs=2)
    with Client(gateway.url) as http, Client(fake.grpc) as grpc:
        told = [[chunk.top_logprobs for chunk in client.stream(prompt, options)] for client in (http, grpc)]
        whole = [client.generate(prompt, options).choices[0].top_logprobs for client in (http, grpc)]
    assert whole[0] == whole[1] == tuple(((i, -0.5), (i + 1, -1.5)) for i in range(3))
    assert [row for rows in told[0] for row in rows] == [row for rows in told[1] for row in rows] == list(whole[0])


async def test_own_async_client_over_http(gateway: RunningGateway, fake: FakeTriton) -> None:
    fake.step_ms = 20
    async with AsyncClient(
        gateway.url, retry=Retry(longest=0.01, patience=0.03), timeouts=Timeouts(between_chunks=0.2)
    ) as http:
        stream = http.stream("x", Options(max_tokens=1000))
        await stream.__anext__()
        await stream.aclose()
        await asyncio.to_thread(fake.wait_free)
        with pytest.raises(errors.RequestTimeout, match="between chunks"):
            async for _ in http.stream("STALL 5"):
                continue
        fake.busy = 1
        with pytest.raises(errors.Overloaded) as busy:  # its Retry-After is longer than this client waits
            await http.generate("SAY again", timeouts=Timeouts())
        assert (busy.value.retry_after or 0) > 0.01
