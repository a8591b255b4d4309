"""KServe v2 messages of model ``qwen``: options -> request, response -> chunk. Pure.

The raw protobuf stubs are used instead of tritonclient's classes: no numpy array is made per tensor. All tensors have
shape [1, n].
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import orjson
from tritonclient.grpc import service_pb2 as pb

from client import errors, refusals
from client.json_text import dumped
from client.types import Options, Prompt, StreamChunk, TopLogprobs, is_ids
from contract.errors import shown
from contract.fields import BY_NAME, BY_OPTION, INT32_MAX
from contract.finish import FINISH_CODES
from contract.packed import REASONS, SequenceOutput, unpack
from contract.prompt_part import PromptPart

PING_TIMEOUT_MS = 8_000
METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
# Messages may have any size: a 128k-token prompt exceeds gRPC's default of 4 MiB. After 10 s of silence gRPC pings;
# nothing else notices a host that is gone. A Triton that our launcher did not start answers more than 2 pings without
# data in 5 minutes with GOAWAY, so after two there is one a minute, and only while a call is open. While data flows,
# gRPC also pings to measure bandwidth; an unanswered one delays the keepalive, by a minute unless limited here.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_http_proxy", 0),  # straight, as over HTTP; else a proxy of the environment, even for localhost
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 2),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
)


def _fp32(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def _int32(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def _uint64(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def _bool(values: Sequence[bool]) -> bytes:
    if any(value not in (False, True) for value in values):
        raise ValueError
    return bytes(values)


def _strings(values: Sequence[str]) -> bytes:
    encoded = [value.encode() for value in values]
    return b"".join(struct.pack("<I", len(raw)) + raw for raw in encoded)


_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "FP32": _fp32, "INT32": _int32, "UINT64": _uint64, "BOOL": _bool, "BYTES": _strings,
}  # fmt: skip

NOTHING = PromptPart()
_REASON_BY_NAME = {name.encode(): reason for name, reason in zip(FINISH_CODES, REASONS, strict=True)}
_ZERO = b"\0\0\0\0"
_KINDS = {"INT32": "an integer", "UINT64": "an integer", "FP32": "a number", "BOOL": "true or false", "BYTES": "text"}
_GIVE = {
    "INT32": "integers", "UINT64": "integers", "FP32": "numbers", "BOOL": "True or False", "BYTES": "valid Unicode",
}  # fmt: skip
_MISFITS = (struct.error, OverflowError, TypeError, UnicodeEncodeError, AttributeError, ValueError)


def add_tensor(request: Any, name: str, datatype: str, values: Sequence[Any]) -> None:
    """Append one input of shape [1, len(values)]. Raises ``InvalidRequest`` naming the field when one does not fit."""
    try:
        raw = _ENCODERS[datatype](values)
    except _MISFITS:
        raise _misfit(name, datatype, values) from None
    tensor = request.inputs.add()
    tensor.name, tensor.datatype = name, datatype
    tensor.shape.extend((1, len(values)))
    request.raw_input_contents.append(raw)


def _misfit(name: str, datatype: str, values: Sequence[Any]) -> errors.InvalidRequest:
    """The error for the first value that a tensor of this type cannot hold, worded as the tokenizer step words it."""
    wrong = next(value for value in values if not _fits(datatype, value))
    numeric = isinstance(wrong, int) and datatype in ("INT32", "UINT64", "FP32")
    if numeric or (datatype == "FP32" and isinstance(wrong, float)):
        row = BY_NAME[name]
        low, high = (bound if isinstance(bound, int | float) else INT32_MAX for bound in (row.low, row.high))
        problem = f"{shown(wrong)} is out of range; give {_KINDS[datatype]} between {low} and {high}"
        return errors.InvalidRequest(name, problem)
    return errors.InvalidRequest(name, f"{shown(wrong)} is not {_KINDS[datatype]}; give {_GIVE[datatype]}")


def _json(name: str, values: Any) -> str:
    plain = isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable)
    return dumped(name, values if plain else list(values)).decode()  # what is no list, the server refuses


def _fits(datatype: str, value: Any) -> bool:
    try:
        _ENCODERS[datatype]([value])
    except _MISFITS:
        return False
    return True


def infer_request(request_id: str, prompt: Prompt, options: Options, *, stream: bool, model: str = "qwen") -> Any:
    """The ``ModelInferRequest`` for one prompt. Raises ``InvalidRequest`` for a value no tensor can hold."""
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    if isinstance(prompt, str):
        add_tensor(request, "text_input", "BYTES", [prompt])
    elif is_ids(prompt):
        add_tensor(request, "input_ids", "INT32", prompt)
    else:
        add_tensor(request, "messages", "BYTES", [_json("messages", prompt)])
    add_tensor(request, "stream", "BOOL", [stream])
    if stream:
        add_tensor(request, "packed_output", "BOOL", [True])
    for name, value in options.given().items():
        if name == "logit_bias":
            if not isinstance(value, Mapping):
                raise errors.InvalidRequest("logit_bias", f"{value!r:.80} maps no token ids to numbers; give a dict")
            add_tensor(request, "logit_bias_ids", "INT32", list(value))
            add_tensor(request, "logit_bias_values", "FP32", list(value.values()))
            continue
        if name == "tools":
            add_tensor(request, "tools", "BYTES", [_json("tools", value)])
            continue
        field = BY_OPTION[name]
        datatype = "BYTES" if field.tensor == "STRING" else field.tensor  # KServe's word for it
        values = value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]
        add_tensor(request, field.name, datatype, values)
    return request


def stop_request(request_id: str, model: str = "qwen") -> Any:
    """Frees the engine's slot of the running request with this id; the model answers one ``cancelled`` chunk."""
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    add_tensor(request, "stop", "BOOL", [True])
    return request


def output(message: Any) -> SequenceOutput | None:
    """What a streamed response brings; ``None`` for Triton's empty final response. Raises what an error means."""
    if message.error_message:
        raise refusals.from_text(message.error_message)
    return sequence_output(message.infer_response)


def sequence_output(response: Any) -> SequenceOutput | None:
    """The only sequence of a ``ModelInferResponse``; ``None`` for Triton's empty final response. The hot path.

    A stand-in that ignores ``packed_output`` answers with named tensors; both give the same record.
    """
    raw = response.raw_output_contents
    if not raw:
        return None
    if len(raw) == 1 and response.outputs[0].name == "packed":
        return unpack(raw[0])
    return _named(dict(zip([output.name for output in response.outputs], raw, strict=True)))


def _named(raw: dict[str, bytes]) -> SequenceOutput:
    """Text is at byte 4: a one-element BYTES tensor."""
    return SequenceOutput(
        raw["text_output"][4:].decode(),
        _REASON_BY_NAME[raw["finish_reason"][4:]],
        _first(raw, "prompt_tokens"),
        _first(raw, "completion_tokens"),
        _first(raw, "cached_tokens"),
        _first(raw, "chunk_index"),
        _first(raw, "sequence_index"),
        raw.get("output_ids", b""),
        raw.get("output_log_probs", b""),
        raw.get("top_log_probs", b"")[4:],
        _prompt(raw),
    )


def _prompt(raw: dict[str, bytes]) -> bytes:
    """The named tensors about the prompt, in the layout of ``packed``."""
    if "prompt_ids" not in raw and "prompt_log_probs" not in raw:
        return b""

    def values(name: str, code: Literal["i", "f"]) -> list[Any]:
        return memoryview(raw.get(name, b"")).cast(code).tolist()

    scores, ranks = values("prompt_log_probs", "f"), values("prompt_ranks", "i")
    return PromptPart(values("prompt_ids", "i"), scores, ranks, raw.get("prompt_top_log_probs", b"")[4:]).pack()


def _first(raw: dict[str, bytes], name: str) -> int:
    return int.from_bytes(raw.get(name, _ZERO)[:4], "little", signed=True)


def stream_chunk(got: SequenceOutput) -> StreamChunk:
    prompt = PromptPart.unpack(got.prompt) if got.prompt else NOTHING
    return StreamChunk(
        got.text, got.finish, tuple(got.token_ids), got.completion_tokens, got.prompt_tokens, got.cached_tokens,
        got.chunk_index, got.sequence_index, tuple(got.token_log_probs), _top(got.tops),
        tuple(prompt.ids), tuple(prompt.log_probs), _top(prompt.tops),
    )  # fmt: skip


def _top(tops: bytes) -> tuple[TopLogprobs, ...]:
    return tuple(tuple((int(i), float(p)) for i, p in token) for token in orjson.loads(tops)) if tops else ()
