"""What both clients share: one connection, however many threads make the first call at once."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from client import AsyncClient, Client, Options, _clients, errors
from client._openai import body, whole
from client.option_check import checked

THREADS = 32


@pytest.mark.parametrize(
    ("address", "owner", "name", "first_call"),
    [("127.0.0.1:1", _clients, "SyncChannel", "_channels"), ("http://127.0.0.1:1", httpx, "Client", "_http")],
)
def test_threads_that_start_together_share_one_connection(
    monkeypatch: pytest.MonkeyPatch, address: str, owner: Any, name: str, first_call: str
) -> None:
    opened, closed = [], []
    real = getattr(owner, name)

    class Counted(real):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            time.sleep(0.02)  # long enough for every thread to pass an unguarded check
            super().__init__(*args, **kwargs)
            opened.append(self)

        def close(self) -> None:
            closed.append(self)
            super().close()

    monkeypatch.setattr(owner, name, Counted)
    together = threading.Barrier(THREADS)
    with Client(address) as qwen, ThreadPoolExecutor(THREADS) as pool:

        def first(_: int) -> object:
            together.wait()
            return getattr(qwen, first_call)()

        used = set(map(id, pool.map(first, range(THREADS))))
    assert len(opened) == len(used) == 1 and closed == opened


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://127.0.0.1:1"])
@pytest.mark.parametrize(
    ("options", "field"),
    [
        (Options(logprobs=5), "return_log_probs|logprobs"),
        (Options(prompt_logprobs=2), "return_prompt_log_probs|prompt_logprobs"),
        (Options(logit_bias=[1]), "logit_bias"),
        (Options(stop=[object()]), "stop_words|stop"),
    ],
)
def test_both_transports_refuse_the_same(address: str, options: Options, field: str) -> None:
    with Client(address) as qwen, pytest.raises(errors.InvalidRequest) as refused:
        qwen.generate("x", options)
    assert refused.value.field in field.split("|")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(guide="a+"), "guide_type: missing beside guide; send both"),
        (Options(guide_type="regex"), "guide: missing or empty; regex needs one, so send it"),
        (
            Options(guide_type="json", guide="{}"),
            "guide: '{}' has no effect with guide_type = json, which is any JSON object; send guide_type = json_schema",
        ),
        (Options(top_logprobs=3), "top_logprobs: 3 needs logprobs; set both or neither"),
        (Options(prompt_top_logprobs=3), "prompt_top_logprobs: 3 needs prompt_logprobs; set both or neither"),
        (Options(guide_type="xml", guide="a"), "guide_type: 'xml' is unknown; use one of json, json_schema, regex"),
        (Options(repetition_detection=5), "repetition_detection: 1 values; give three"),
    ],
)
def test_http_drops_nothing(options: Options, message: str) -> None:
    """Over gRPC these are refused by the server or honoured; OpenAI's fields would have dropped them."""
    with Client("http://127.0.0.1:1") as qwen, pytest.raises(errors.InvalidRequest, match=re.escape(message)):
        qwen.generate("x", options)


def test_one_value_is_a_list_of_it_over_http_too() -> None:
    options = checked(Options(stop="a", bad_words="ab", stop_token_ids=5), "x")
    sent = body("x", options, model="qwen", stream=False)
    assert (sent["stop"], sent["bad_words"], sent["stop_token_ids"]) == (["a"], ["ab"], [5])
    assert body(np.array([3, 4]), Options(), model="qwen", stream=False)["prompt"] == [3, 4]
    assert isinstance(body(np.array([3, 4]), Options(), model="qwen", stream=False)["prompt"][0], int)


LONE = "half a \ud83d"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://127.0.0.1:1"])
@pytest.mark.parametrize(
    ("prompt", "options", "field"),
    [
        (LONE, Options(), "prompt|text_input"),
        ([{"role": "user", "content": LONE}], Options(), "messages"),
        ("x", Options(stop=[LONE]), "stop|stop_words"),
        ("x", Options(seed=2**70), "seed"),
        ("x", Options(max_tokens=10**5000), "max_tokens"),
        ("x", Options(temperature=10**5000), "temperature"),
        ("x", Options(stop=[[10**5000]]), "stop|stop_words"),
        ([1, 2**70], Options(), "prompt"),
        ([-(10**5000)], Options(), "prompt"),
        (None, Options(), "prompt"),
        ({"role": "user", "content": "x"}, Options(), "prompt"),
        (b"x", Options(), "prompt"),
        ("x", Options(logit_bias=[(1, 2.0)]), "logit_bias"),
    ],
)
def test_what_cannot_be_sent_is_named_before_anything_is_sent(
    address: str, prompt: Any, options: Options, field: str
) -> None:
    """Half of a surrogate pair, as ``json.loads`` and ``os.fsdecode`` make them, and numbers of more than 64 bits."""
    with Client(address) as qwen, pytest.raises(errors.InvalidRequest) as refused:
        qwen.generate(prompt, options)
    assert refused.value.field in field.split("|") and "\n" not in str(refused.value)

    async def whole() -> None:
        async with AsyncClient(address) as other:
            await other.generate(prompt, options)

    with pytest.raises(errors.InvalidRequest):
        asyncio.run(whole())


def test_alternatives_over_http_are_the_best_ones_by_their_ids() -> None:
    """The chosen token stands in front of a completion's, and need not be among the best."""

    def answered(names: str) -> dict[str, Any]:
        scores = {names.format(7): -3.0, names.format(1): -0.5, names.format(2): -1.0}
        scored = {"token_logprobs": [-3.0], "top_logprobs": [scores]}
        return {"choices": [{"index": 0, "text": "x", "finish_reason": "stop", "logprobs": scored}]}

    assert whole(answered("token_id:{}"), 2).top_logprobs == (((1, -0.5), (2, -1.0)),)
    assert whole(answered("token {}")).top_logprobs == ()
    with pytest.raises(errors.InvalidRequest, match=r"^top_logprobs: this server names tokens by their text"):
        whole(answered("token {}"), 2)
