"""The inner models, called directly by whoever reaches Triton's port: refused in one line, and nobody else notices."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from tests.conftest import Server
from tests.triton.calls import Stream, ask, scalar

pytestmark = pytest.mark.triton

CHUNKS = {
    "negative count": [-1, 0, 0, 0, 0, 0, 0, 0, -12, 0, 0, 0, 0],
    "too short": [1, 2, 3],
    "a stranger's slot": [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "one word": [0],
}


def _call(address: str, model: str, **arrays: np.ndarray) -> str:
    """The error with which the model answers."""
    inputs = []
    for name, array in arrays.items():
        tensor = grpcclient.InferInput(name, list(array.shape), "INT32" if array.dtype == np.int32 else "BYTES")
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    errors: list[str] = []
    with grpcclient.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: errors.append(str(error)))
        client.async_stream_infer(model, inputs)
        client.stop_stream()
    return errors[0]


def test_strangers_at_the_inner_models_harm_no_stream(server: Server) -> None:
    with Stream(server.grpc) as stream:
        stream.send(text_input="Hi", max_tokens=200, stream=True)
        stream.next()
        for words in CHUNKS.values():
            _refused(_call(server.grpc, "detokenizer", chunk=np.array([words], dtype=np.int32)))
        job = np.array([[b'{"sampling": {"max_tokens": 4, "temperature": "x"}, "n": 0}']], dtype=np.object_)
        _refused(_call(server.grpc, "engine", prompt_ids=np.array([[1, 2]], dtype=np.int32), job=job))
        answer = stream.answer()
    assert (answer.error, answer.finish, answer.completion_tokens) == (None, "length", 200)
    assert server.process.poll() is None


def _refused(error: str) -> None:
    assert "inner step of qwen" in error and "/" not in error and "Traceback" not in error, error


def test_a_stop_needs_the_key_of_a_request_that_brought_one(server: Server) -> None:
    with Stream(server.grpc) as stream, Stream(server.grpc) as stranger:
        stream.send("mine", text_input="Hi", max_tokens=2000, stream=True, stop_key="secret")
        stream.next()
        for guess in ({}, {"stop_key": "guess"}):
            stranger.send("mine", stop=True, **guess)
            assert stranger.answer().finish == "cancelled"
        assert all(scalar(stream.next(), "finish_reason") == "" for _ in range(20))
        stranger.send("mine", stop=True, stop_key="secret")
        assert stranger.answer().finish == "cancelled"
        assert stream.answer().finish == "cancelled"


def test_a_short_prompt_does_not_wait_for_long_ones(server: Server) -> None:
    """4 MB of blanks are within what the context might hold; they take seconds."""
    with Stream(server.grpc) as stream, Stream(server.grpc) as other:
        for _ in range(3):
            stream.send(text_input=" " * 3_900_000, max_tokens=1)
        other.send(text_input="Hi", max_tokens=1)
        assert other.answer().completion_tokens == 1
        assert stream.waiting < 3, "the short prompt came last"
    assert ask(server.grpc, text_input="Hi", max_tokens=2).completion_tokens == 2
