"""Requests in NVIDIA's style work unchanged, on every transport."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from contract import engine_dir
from contract.packed import unpack
from serving.launch.config import SIMULATED_ENGINE
from serving.tokenizer.encoder import Encoder
from tests.conftest import Server
from tests.triton.calls import MODEL, Stream, aio_answers, ask, generate, generate_stream, tensors

pytestmark = pytest.mark.triton
Says = Callable[[str, int, int], str]
PROMPT = "What is machine learning?"


def test_curl_generate(server: Server, says: Says) -> None:
    status, answer = generate(server.http, {"text_input": PROMPT, "max_tokens": 16, "seed": 3})
    assert status == 200 and answer["text_output"] == says(PROMPT, 3, 16)
    assert (answer["finish_reason"], answer["completion_tokens"], len(answer["output_ids"])) == ("length", 16, 16)


def test_curl_generate_with_nothing_but_a_prompt_and_nvidias_fields(server: Server) -> None:
    body = {"text_input": PROMPT, "max_tokens": 4, "bad_words": "", "stop_words": "", "pad_id": 2, "end_id": 2}
    status, answer = generate(server.http, body)
    assert status == 200 and answer["completion_tokens"] == 4


def test_what_no_input_is_called_is_refused_by_name_over_http(server: Server) -> None:
    """Triton itself drops it. Over gRPC it refuses an unknown tensor."""
    for body, sentence in (
        ({"temprature": 0.5}, "temprature: no such input; did you mean temperature?"),
        ({"return_context_logits": True}, "return_context_logits: True is not served; use return_prompt_log_probs"),
    ):
        status, answer = generate(server.http, {"text_input": PROMPT, "max_tokens": 4, **body})
        assert status == 400 and sentence in answer["error"]
    neutral = {"return_context_logits": False, "length_penalty": 2.0, "early_stopping": 1, "beam_width": 1}
    assert generate(server.http, {"text_input": PROMPT, "max_tokens": 4, **neutral})[0] == 200


def test_load_tests_for_tensorrt_llm(server: Server, says: Says) -> None:
    """``vllm bench serve --backend tensorrt-llm``, and SGLang's ``--backend trt``."""
    same = {"accumulate_tokens": True, "text_input": PROMPT, "top_p": 1.0, "max_tokens": 8, "stream": True}
    for own in ({"temperature": 0.0, "min_length": 8}, {"temperature": 0.000001, "min_length": 8, "end_id": 1_048_576}):
        answers = generate_stream(server.http, same | own | {"seed": 3}, model="ensemble")
        assert "".join(answer["text_output"] for answer in answers) == says(PROMPT, 3, 8)


@pytest.mark.parametrize("streaming", [False, True])
def test_nvidias_end_to_end_grpc_client(server: Server, says: Says, streaming: bool) -> None:
    """tensorrtllm_backend v0.17.0, inflight_batcher_llm/client/end_to_end_grpc_client.py: model, inputs, reading."""
    values = {
        "text_input": PROMPT, "max_tokens": 8, "stream": streaming, "beam_width": 1, "temperature": 1.0,
        "num_return_sequences": 1, "stop_words": ["nope"], "repetition_penalty": 1.0, "random_seed": 3,
        "min_length": 2, "length_penalty": 1.0, "early_stopping": 0, "end_id": 2, "pad_id": 2,
        "exclude_input_in_output": True, "return_log_probs": True,
    }  # fmt: skip
    names = ("text_output", "cum_log_probs", "output_log_probs", "sequence_index")
    results: list[Any] = []
    with grpcclient.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: results.append(error or result))
        outputs = [grpcclient.InferRequestedOutput(name) for name in names]
        client.async_stream_infer("ensemble", tensors(**values), outputs=outputs)
        client.stop_stream()
    texts = [result.as_numpy("text_output") for result in results]
    assert {text.shape for text in texts} == {(1,)}
    assert "".join(text[0].decode("utf-8") for text in texts) == says(PROMPT, 3, 8)
    assert {int(result.as_numpy("sequence_index")[0][0]) for result in results} == {0}


@pytest.mark.parametrize("streaming", [False, True])
def test_ids_through_the_alias(server: Server, says: Says, streaming: bool) -> None:
    """tritonclient, `input_ids` alone, the model under NVIDIA's name."""
    ids = list(Encoder(SIMULATED_ENGINE / "tokenizer.json").encode(PROMPT))
    results: list[Any] = []
    with grpcclient.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: results.append(error or result))
        client.async_stream_infer("ensemble", tensors(input_ids=ids, max_tokens=8, seed=3, stream=streaming))
        client.stop_stream()
    assert "".join(r.as_numpy("text_output")[0].decode() for r in results) == says(PROMPT, 3, 8)
    assert results[-1].as_numpy("finish_reason").item() == b"length"


def test_curl_generate_stream(server: Server, says: Says) -> None:
    events = list(generate_stream(server.http, {"text_input": PROMPT, "max_tokens": 16, "seed": 3, "stream": True}))
    assert "".join(event["text_output"] for event in events) == says(PROMPT, 3, 16)
    assert [event["chunk_index"] for event in events] == list(range(len(events)))
    assert [event["finish_reason"] for event in events] == [""] * (len(events) - 1) + ["length"]
    assert len(events) > 4, "an idle server streams about token by token"


def test_grpc_stream_without_a_request_id(server: Server, says: Says) -> None:
    answer = ask(server.grpc, text_input=PROMPT, max_tokens=16, seed=3, stream=True)
    assert answer.text == says(PROMPT, 3, 16) and answer.in_order and len(answer.chunks) > 4
    assert (answer.finish, answer.completion_tokens) == ("length", 16)


def test_one_packed_tensor_says_what_the_named_ones_say(server: Server, says: Says) -> None:
    """Streamed, and as one response with two sequences in it."""
    wish = {"text_input": PROMPT, "max_tokens": 12, "seed": 3, "return_log_probs": True}
    with Stream(server.grpc) as stream:
        stream.send(**wish, stream=True, packed_output=True)
        parts = []
        while not parts or not parts[-1].finish:
            result = stream.next()
            assert [output.name for output in result.get_response().outputs] == ["packed"]
            parts.append(unpack(result.as_numpy("packed").tobytes()))
        stream.send(**wish, num_return_sequences=2, packed_output=True)
        both = stream.next().as_numpy("packed").tobytes()
    assert "".join(part.text for part in parts) == says(PROMPT, 3, 12)
    assert [part.chunk_index for part in parts] == list(range(len(parts)))
    assert (parts[-1].finish, parts[-1].completion_tokens, parts[0].sequence_index) == ("length", 12, 0)
    ids = [i for part in parts for i in part.token_ids]
    assert len(ids) == 12 and [p for part in parts for p in part.token_log_probs] == [-0.5] * 12
    first = unpack(both)
    assert first.text == says(PROMPT, 3, 12) and says(PROMPT, 4, 12).encode() in both


def test_grpc_stream_of_a_request_that_does_not_stream(server: Server, says: Says) -> None:
    answer = ask(server.grpc, text_input=PROMPT, max_tokens=16, seed=3)
    assert answer.text == says(PROMPT, 3, 16) and answer.chunks == [0]


async def test_grpc_aio_stream_infer(server: Server, says: Says) -> None:
    requests = [
        {"request_id": str(i), "text_input": f"{PROMPT} {i}", "max_tokens": 12, "seed": i, "stream": True}
        for i in range(8)
    ]
    answers = await aio_answers(server.grpc, requests)
    assert [answers[str(i)].text for i in range(8)] == [says(f"{PROMPT} {i}", i, 12) for i in range(8)]


def test_unary_infer_is_refused_by_triton_itself(server: Server) -> None:
    """As for every ensemble with a decoupled step, NVIDIA's too: ``generate`` and the gRPC stream are the ways in."""
    with (
        pytest.raises(InferenceServerException, match="doesn't support models with decoupled transaction policy"),
        grpcclient.InferenceServerClient(server.grpc) as client,
    ):
        client.infer(MODEL, tensors(text_input=PROMPT, max_tokens=16))
    with (
        pytest.raises(InferenceServerException, match="doesn't support models with decoupled transaction policy"),
        httpclient.InferenceServerClient(server.http.removeprefix("http://")) as web,
    ):
        web.infer(MODEL, tensors(httpclient, text_input=PROMPT, max_tokens=16))
    assert ask(server.grpc, text_input=PROMPT, max_tokens=2).completion_tokens == 2


def test_messages_through_the_chat_template(server: Server, says: Says) -> None:
    messages = json.dumps([{"role": "user", "content": "Hi"}])
    rendered = (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    answer = ask(server.grpc, messages=messages, max_tokens=8, seed=1, stream=True)
    assert answer.text == says(rendered, 1, 8)


def test_n_sequences_stream_and_at_once(server: Server, says: Says) -> None:
    expected = [says(PROMPT, 5 + i, 10) for i in range(3)]
    _, at_once = generate(server.http, {"text_input": PROMPT, "max_tokens": 10, "seed": 5, "num_return_sequences": 3})
    assert at_once["text_output"] == expected and at_once["sequence_index"] == [0, 1, 2]
    body = {"text_input": PROMPT, "max_tokens": 10, "seed": 5, "num_return_sequences": 3, "stream": True}
    texts = [""] * 3
    for event in generate_stream(server.http, body):
        texts[event["sequence_index"]] += event["text_output"]
    assert texts == expected


def test_stop_words_cut_alike_streaming_or_not(server: Server, says: Says) -> None:
    whole = says(PROMPT, 3, 40)
    stop = whole[60:66]
    expected = whole[: whole.index(stop)]
    _, at_once = generate(server.http, {"text_input": PROMPT, "max_tokens": 40, "seed": 3, "stop_words": stop})
    streamed = ask(server.grpc, text_input=PROMPT, max_tokens=40, seed=3, stream=True, stop_words=[stop])
    assert (at_once["text_output"], at_once["finish_reason"]) == (expected, "stop")
    assert (streamed.text, streamed.finish) == (expected, "stop")
    assert at_once["completion_tokens"] == streamed.completion_tokens < 40


def test_echo_and_log_probs(server: Server, says: Says) -> None:
    body = {
        "text_input": PROMPT,
        "max_tokens": 4,
        "seed": 3,
        "exclude_input_in_output": False,
        "return_log_probs": True,
    }
    _, answer = generate(server.http, body)
    assert answer["text_output"] == PROMPT + says(PROMPT, 3, 4)
    assert answer["output_log_probs"] == [-0.5] * 4 and answer["cum_log_probs"] == -2.0


def test_what_dashboards_read_of_the_engine(server: Server) -> None:
    """One ``model_name`` everywhere: that of engine.json."""
    generate(server.http, {"text_input": PROMPT, "max_tokens": 4})
    name = engine_dir.read(SIMULATED_ENGINE).model.name
    server.wait_for(lambda: server.metric("vllm:prefix_cache_queries_total") > 0, 30)
    with urllib.request.urlopen(server.metrics, timeout=5) as response:
        lines = response.read().decode().splitlines()
    ours = [line for line in lines if line.startswith(("vllm:", "qwen_"))]
    assert ours and all(f'model_name="{name}"' in line for line in ours)
    for series in (
        "num_preemptions_total",
        "prefix_cache_hits_total",
        "iteration_tokens_total_count",
        "cache_config_info",
    ):
        assert any(line.startswith(f"vllm:{series}{{") for line in ours), series
    (info,) = [line for line in ours if line.startswith("vllm:cache_config_info")]
    assert 'block_size="32"' in info and 'num_gpu_blocks="' in info


def test_usage_counts_on_the_metrics_port(server: Server) -> None:
    before = server.metric("vllm:generation_tokens_total")
    generate(server.http, {"text_input": PROMPT, "max_tokens": 7})
    server.wait_for(lambda: server.metric("vllm:generation_tokens_total") >= before + 7, 30)


def test_one_connection_carries_many_requests(server: Server, says: Says) -> None:
    with Stream(server.grpc) as stream:
        for seed in range(5):
            stream.send(text_input=PROMPT, max_tokens=5, seed=seed, stream=True)
            assert stream.answer().text == says(PROMPT, seed, 5)


def test_a_seed_of_64_bits(server: Server, says: Says) -> None:
    answer = ask(server.grpc, text_input=PROMPT, max_tokens=5, seed=int(np.iinfo(np.uint64).max))
    assert answer.text == says(PROMPT, 2**64 - 1, 5)
