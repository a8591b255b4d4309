"""Requests that no client library writes: raw KServe messages with anything wrong that a message can have wrong."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from client.kserve import add_tensor


@dataclass
class Tensor:
    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes = b""


def int32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def fp32(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def text(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


@dataclass
class Odd:
    """``tensors`` beside a good prompt, or instead of it; ``change`` for what is no tensor."""

    tensors: tuple[Tensor, ...] = ()
    model: str = "qwen"
    prompt: bool = True
    change: Callable[[Any], Any] = lambda request: None
    answers: bool = False  # it is odd, but it can be answered
    id: str = field(default="")

    def request(self) -> Any:
        request = pb.ModelInferRequest(model_name=self.model, id=self.id)
        if self.prompt:
            add_tensor(request, "text_input", "BYTES", ["Hi"])
            add_tensor(request, "max_tokens", "INT32", [2])
        for each in self.tensors:
            tensor = request.inputs.add(name=each.name, datatype=each.datatype)
            tensor.shape.extend(each.shape)
            request.raw_input_contents.append(each.raw)
        self.change(request)
        return request


def one(name: str, datatype: str, shape: tuple[int, ...], raw: bytes, **more: Any) -> Odd:
    return Odd((Tensor(name, datatype, shape, raw),), **more)


def prompt(shape: tuple[int, ...], raw: bytes, name: str = "text_input", **more: Any) -> Odd:
    return one(name, "BYTES", shape, raw, prompt=False, **more)


def _parameter(name: str, **value: Any) -> Callable[[Any], None]:
    return lambda request: request.parameters[name].CopyFrom(pb.InferParameter(**value))


def _typed_contents(request: Any) -> None:
    """Both ways of carrying data at once."""
    request.inputs[0].contents.bytes_contents.append(b"other")


def _only_typed(request: Any) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.bytes_contents.append(b"Hi")
    request.inputs[1].contents.int_contents.append(2)


def _wrong_typed(request: Any) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.append(1.0)
    request.inputs[1].contents.int_contents.append(2)


def _no_contents(request: Any) -> None:
    del request.raw_input_contents[:]


def _one_content_too_many(request: Any) -> None:
    request.raw_input_contents.append(b"more")


def _output(name: str) -> Callable[[Any], None]:
    return lambda request: request.outputs.add(name=name)


def _classes(request: Any) -> None:
    """KServe's classification extension; Triton divides by the size of one value, which texts do not have."""
    request.outputs.add(name="text_output").parameters["classification"].int64_param = 1


def _shared_memory(request: Any) -> None:
    request.inputs[0].parameters["shared_memory_region"].string_param = "/etc/passwd"
    request.inputs[0].parameters["shared_memory_byte_size"].int64_param = 64
    del request.raw_input_contents[:]


BAD_BYTES = b"a\xff\xfe\x80"
ODD: dict[str, Odd] = {
    # types
    "top_k as FP32": one("top_k", "FP32", (1, 1), fp32(2.0)),
    "top_k as INT64": one("top_k", "INT64", (1, 1), bytes(8)),
    "temperature as FP64": one("temperature", "FP64", (1, 1), struct.pack("<d", 0.5)),
    "stream as INT32": one("stream", "INT32", (1, 1), int32(1)),
    "seed as BYTES": one("seed", "BYTES", (1, 1), text(b"1")),
    "a type that is none": one("top_k", "INT31", (1, 1), int32(1)),
    "an empty type": one("top_k", "", (1, 1), int32(1)),
    "a prompt of INT32": one("text_input", "INT32", (1, 1), int32(1), prompt=False),
    # shapes
    "no dimension": one("top_k", "INT32", (), int32(1)),
    "one dimension": one("top_k", "INT32", (1,), int32(1)),
    "three dimensions": one("top_k", "INT32", (1, 1, 1), int32(1)),
    "a hundred dimensions": one("top_k", "INT32", (1,) * 100, int32(1)),
    "zero values": one("stop_token_ids", "INT32", (1, 0), b"", answers=True),
    "a batch of none": one("top_k", "INT32", (0, 1), b""),
    "a negative dimension": one("stop_token_ids", "INT32", (1, -1), int32(1)),
    "more values than bytes": one("stop_token_ids", "INT32", (1, 100), int32(1)),
    "more bytes than values": one("stop_token_ids", "INT32", (1, 1), int32(1, 2, 3)),
    "a batch of two": prompt((2, 1), text(b"a", b"b")),
    "a batch of 100,000": prompt((100_000, 1), text(*[b"a"] * 100_000)),
    "batches that differ": one("top_k", "INT32", (2, 1), int32(1, 1)),
    "two prompts in a row": prompt((1, 2), text(b"a", b"b")),
    "two million stop words": one("stop_words", "BYTES", (1, 2_000_000), text(b"a") * 2_000_000),
    "a prompt of 70 MB": prompt((1, 1), text(b"a" * 70_000_000)),
    "70,000 stop tokens": one("stop_token_ids", "INT32", (1, 70_000), int32(*range(70_000))),
    # values
    "temperature of NaN": one("temperature", "FP32", (1, 1), fp32(float("nan"))),
    "temperature of infinity": one("temperature", "FP32", (1, 1), fp32(float("inf"))),
    "temperature below zero": one("temperature", "FP32", (1, 1), fp32(-1.0)),
    "a subnormal temperature": one("temperature", "FP32", (1, 1), fp32(1e-45), answers=True),
    "top_p above one": one("top_p", "FP32", (1, 1), fp32(1.5)),
    "top_k below zero": one("top_k", "INT32", (1, 1), int32(-7)),
    "n of none": one("num_return_sequences", "INT32", (1, 1), int32(0)),
    "n of millions": one("num_return_sequences", "INT32", (1, 1), int32(2**31 - 1)),
    "a token id below zero": one("input_ids", "INT32", (1, 2), int32(-1, 5), prompt=False),
    "a token id beyond the vocabulary": one("input_ids", "INT32", (1, 2), int32(2**31 - 1, 5), prompt=False),
    "a BOOL of 7": one("ignore_eos", "BOOL", (1, 1), b"\x07", answers=True),
    # names
    "a name that no input has": one("temprature", "FP32", (1, 1), fp32(1.0)),
    "an empty name": one("", "INT32", (1, 1), int32(1)),
    "a name of a megabyte": one("x" * 2**20, "INT32", (1, 1), int32(1)),
    "a name with a path": one("../../etc/passwd", "INT32", (1, 1), int32(1)),
    "an input twice": one("max_tokens", "INT32", (1, 1), int32(3)),
    "no input at all": Odd(prompt=False),
    "no prompt": one("max_tokens", "INT32", (1, 1), int32(2), prompt=False),
    # text
    "bytes that are no UTF-8": prompt((1, 1), text(BAD_BYTES)),
    "half a surrogate in UTF-8": prompt((1, 1), text(b"\xed\xa0\x80")),
    "half a surrogate in JSON": prompt((1, 1), text(b'[{"role":"user","content":"\\ud800"}]'), name="messages"),
    "NUL bytes": Odd(
        (Tensor("text_input", "BYTES", (1, 1), text(b"a\0b\0")), Tensor("max_tokens", "INT32", (1, 1), int32(2))),
        prompt=False, answers=True,
    ),
    "a stop word that is no UTF-8": one("stop_words", "BYTES", (1, 1), text(BAD_BYTES)),
    "a length that promises more": prompt((1, 1), struct.pack("<I", 100) + b"short"),
    "a length of four gigabytes": prompt((1, 1), struct.pack("<I", 2**32 - 1) + b"short"),
    "a length that promises less": prompt((1, 1), struct.pack("<I", 1) + b"longer"),
    "half a length": prompt((1, 1), b"\x01\x00"),
    "a string missing": prompt((1, 2), text(b"a")),
    # the message around it
    "a request id of a megabyte": Odd(id="x" * 2**20, answers=True),
    "a request id of control characters": Odd(id="\x01\n\x7f‮", answers=True),
    "a sequence id": Odd(change=_parameter("sequence_id", int64_param=5), answers=True),
    "a sequence id of text": Odd(change=_parameter("sequence_id", string_param="x"), answers=True),
    "a sequence's start": Odd(change=_parameter("sequence_start", bool_param=True), answers=True),
    "a parameter that no input has": Odd(change=_parameter("temprature", string_param="1")),
    "a parameter without a value": Odd(change=lambda request: request.parameters["x"]),
    "a priority of text": Odd(change=_parameter("priority", string_param="high")),
    "a time-out below zero": Odd(change=_parameter("timeout", int64_param=-1)),
    "data twice": Odd(change=_typed_contents),
    "typed data": Odd(change=_only_typed, answers=True),
    "typed data of another type": Odd(change=_wrong_typed),
    "no data": Odd(change=_no_contents),
    "data too many": Odd(change=_one_content_too_many, answers=True),
    "an output that no model has": Odd(change=_output("text_outputs")),
    "shared memory of others": Odd(change=_shared_memory),
    # other models
    "a model that is none": Odd(model="qwen2"),
    "a model of no name": Odd(model=""),
    "a model with a path": Odd(model="../qwen"),
    "a version that is none": Odd(change=lambda request: setattr(request, "model_version", "9")),
    "a version with a path": Odd(change=lambda request: setattr(request, "model_version", "../1")),
    "the tokenizer itself": Odd(model="tokenizer", answers=True),
    "the engine without a job": one("prompt_ids", "INT32", (1, 2), int32(1, 2), model="engine", prompt=False),
    "the engine with a job of no length": Odd(
        (Tensor("prompt_ids", "INT32", (1, 2), int32(1, 2)), Tensor("job", "BYTES", (1, 1), text(b""))),
        model="engine", prompt=False,
    ),
    "the engine with ids of rank 3": Odd(
        (Tensor("prompt_ids", "INT32", (1, 1, 2), int32(1, 2)), Tensor("job", "BYTES", (1, 1), text(b"{}"))),
        model="engine", prompt=False,
    ),
    "the engine with no ids": Odd(
        (Tensor("prompt_ids", "INT32", (1, 0), b""), Tensor("job", "BYTES", (1, 1), text(b"{}"))),
        model="engine", prompt=False,
    ),
    "the detokenizer with no word": one("chunk", "INT32", (1, 0), b"", model="detokenizer", prompt=False),
    "the detokenizer with words of ones": one(
        "chunk", "INT32", (1, 64), int32(*[-1] * 64), model="detokenizer", prompt=False
    ),
    "the detokenizer with a batch": one("chunk", "INT32", (2, 2), int32(*[0] * 4), model="detokenizer", prompt=False),
}  # fmt: skip


# The size of these in bytes is a multiple of 2^64, so Triton 2.51 finds that no data is just right, and ends.
DEADLY: dict[str, Odd] = {
    "a huge dimension": one("stop_token_ids", "INT32", (1, 2**62), b""),
    "a very negative dimension": one("stop_token_ids", "INT32", (1, -(2**63)), b""),
    "classes of a text": Odd(change=_classes),
}


def _body(name: str = "text_input", datatype: str = "BYTES", shape: Any = (1, 1), **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, **more}]}


_SIZE, _REGION = "binary_data_size", {"shared_memory_region": "/etc/passwd", "shared_memory_byte_size": 9}
_BODIES: dict[str, Any] = {
    "no JSON": "{",
    "a list": [],
    "no inputs": {},
    "inputs of text": {"inputs": "x"},
    "an input of text": {"inputs": ["x"]},
    "an input without data": _body(),
    "a shape of text": _body(shape="x", data=["a"]),
    "a shape below zero": _body(shape=[1, -1], data=["a"]),
    "a huge shape": _body(shape=[1, 2**60], data=["a"]),
    "data of another type": _body(data=[1]),
    "a number too big": _body("max_tokens", "INT32", data=[99_999_999_999_999]),
    "an infinite number": _body("temperature", "FP32", data=[math.inf]),
    "nested data": _body(data=[[["a"]] * 3]),
    "an id of a list": {"id": [1], "inputs": []},
    "half a surrogate": _body(data=["\ud800"]),
    "a binary size without data": _body(parameters={_SIZE: 99}),
    "a binary size below zero": _body(parameters={_SIZE: -1}),
    "shared memory of others": _body(parameters=_REGION),
}
# Bodies of /v2/models/…/infer, KServe's JSON.
HTTP = {"no body": b""} | {n: (b if isinstance(b, str) else json.dumps(b)).encode() for n, b in _BODIES.items()}
