"""Requests as strangers send them: curl-like HTTP and Triton's own Python clients, nothing of this repository's."""

from __future__ import annotations

import json
import queue
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as aioclient
from tritonclient.utils import InferenceServerException

MODEL = "qwen"
TYPES: dict[str, tuple[str, Any]] = {
    **dict.fromkeys(("text_input", "messages", "tools", "stop_words", "bad_words"), ("BYTES", np.object_)),
    **dict.fromkeys(
        ("guided_decoding_guide_type", "guided_decoding_guide", "lora_name", "stop_key", "truncation_side"),
        ("BYTES", np.object_),
    ),
    **dict.fromkeys(
        (
            "stream",
            "stop",
            "ignore_eos",
            "return_log_probs",
            "return_prompt_log_probs",
            "exclude_input_in_output",
            "packed_output",
        ),
        ("BOOL", np.bool_),
    ),
    **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty", "length_penalty"), ("FP32", np.float32)),
    **dict.fromkeys(("seed", "random_seed"), ("UINT64", np.uint64)),
}


def tensors(client: ModuleType = grpcclient, batch: int = 1, **values: Any) -> list[Any]:
    """One tensor of shape [batch, n] for every value; a list is n values, anything else one."""
    inputs = []
    for name, value in values.items():
        datatype, dtype = TYPES.get(name, ("INT32", np.int32))
        row = [v.encode() if isinstance(v, str) else v for v in (value if isinstance(value, list) else [value])]
        array = np.array([row] * batch, dtype=dtype)
        tensor = client.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def scalar(result: Any, name: str) -> Any:
    value = result.as_numpy(name).reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else value


@dataclass
class Answer:
    """All chunks of one request."""

    text: str = ""
    finish: str = ""
    chunks: list[int] = field(default_factory=list)  # chunk_index of each
    completion_tokens: int = 0
    error: InferenceServerException | None = None

    def add(self, result: Any) -> None:
        assert not self.finish, "a chunk after the last one"
        self.text += scalar(result, "text_output")
        self.finish = scalar(result, "finish_reason")
        self.chunks.append(int(scalar(result, "chunk_index")))
        self.completion_tokens = int(scalar(result, "completion_tokens"))

    @property
    def in_order(self) -> bool:
        return self.chunks == list(range(len(self.chunks)))


class Stream:
    """``tritonclient.grpc`` with ``start_stream`` and ``async_stream_infer``: one connection, one open stream."""

    def __init__(self, address: str) -> None:
        self._client = grpcclient.InferenceServerClient(address)
        self._results: queue.Queue[tuple[Any, InferenceServerException | None]] = queue.Queue()
        self._unanswered = 0
        self._client.start_stream(lambda result, error: self._results.put((result, error)))

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        """Without a reset where every request has its answer: now and then Triton 2.51 crashes at one."""
        self._client.stop_stream(cancel_requests=self._unanswered > 0)
        self._client.close()

    def send(self, request_id: str = "", batch: int = 1, timeout: int | None = None, **values: Any) -> None:
        """``timeout``: KServe's parameter, in microseconds."""
        inputs = tensors(batch=batch, **values)
        self._unanswered += 1
        self._client.async_stream_infer(MODEL, inputs, request_id=request_id, timeout=timeout)

    @property
    def waiting(self) -> int:
        """Responses that have come and were not taken yet."""
        return self._results.qsize()

    def next(self, timeout: float = 30) -> Any:
        """The next response. Raises the server's error, or ``queue.Empty``."""
        result, error = self._results.get(timeout=timeout)
        if error is not None:
            raise error
        return result

    def answer(self, timeout: float = 30) -> Answer:
        """All that follows until the last chunk or an error."""
        answer = Answer()
        try:
            while not answer.finish:
                answer.add(self.next(timeout))
        except InferenceServerException as error:
            answer.error = error
        self._unanswered -= 1
        return answer


def ask(address: str, **values: Any) -> Answer:
    with Stream(address) as stream:
        stream.send(**values)
        return stream.answer()


async def aio_answers(address: str, requests: list[dict[str, Any]]) -> dict[str, Answer]:
    """``tritonclient.grpc.aio``: all requests on one ``stream_infer``, answers by request id."""
    answers = {request["request_id"]: Answer() for request in requests}

    async def send() -> AsyncIterator[dict[str, Any]]:
        for request in requests:
            values = dict(request)
            yield {"model_name": MODEL, "request_id": values.pop("request_id"), "inputs": tensors(aioclient, **values)}

    async with aioclient.InferenceServerClient(address) as client:
        iterator = client.stream_infer(send())
        async for result, error in iterator:
            assert error is None, error
            answers[result.get_response().id].add(result)
            if all(answer.finish for answer in answers.values()):
                iterator.cancel()
                break
    return answers


def generate(base: str, body: Any) -> tuple[int, dict[str, Any]]:
    """curl -X POST BASE/v2/models/qwen/generate -d BODY: status and JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(f"{base}/v2/models/{MODEL}/generate", data, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def generate_stream(base: str, body: dict[str, Any], *, model: str = MODEL) -> Iterator[dict[str, Any]]:
    """curl -N -X POST BASE/v2/models/MODEL/generate_stream -d BODY: the events as they come."""
    url = f"{base}/v2/models/{model}/generate_stream"
    with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=60) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        for line in response:
            if line.strip():
                assert line.startswith(b"data: "), line
                yield json.loads(line[6:])
