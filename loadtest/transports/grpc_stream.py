"""KServe v2 ``ModelStreamInfer`` with the raw stubs, one call per request.

``init_gevent`` must have run before this module makes a channel (the locustfile does it), and a channel must be made
after Locust forked (``GrpcTransport`` is made by the worker, when the run starts). Streams are spread over a few
channels, because one HTTP/2 connection is read by one thread.
"""

from __future__ import annotations

import json
import struct
import time
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from loadtest.errors import TransportError
from loadtest.scenarios.base import Request
from loadtest.transports.base import OnMessage, StreamEnd

CHANNELS = 4
# A real gRPC status instead of an error text in the stream (Triton >= 24.08).
METADATA = (("triton_grpc_error", "true"),)
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # else equal channels share one connection
    ("grpc.enable_retries", 0),  # a retried request would hide a failure
)
INT32 = struct.Struct("<i")
KINDS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "timeout",
    grpc.StatusCode.INVALID_ARGUMENT: "invalid",
    grpc.StatusCode.UNIMPLEMENTED: "unsupported",
    grpc.StatusCode.ALREADY_EXISTS: "duplicate_id",
    grpc.StatusCode.CANCELLED: "server_cancelled",
    grpc.StatusCode.NOT_FOUND: "not_found",
}


class GrpcTransport:
    name = "grpc"

    def __init__(self, target: str, model: str, *, secure: bool = False, timeout: float, ignore_eos: bool) -> None:
        self._model, self._timeout, self._ignore_eos = model, timeout, ignore_eos
        self._channels = [channel(target, secure) for _ in range(CHANNELS)]
        self._calls = [service_pb2_grpc.GRPCInferenceServiceStub(c).ModelStreamInfer for c in self._channels]
        self._next = 0

    def stream(self, request: Request, on_message: OnMessage) -> StreamEnd:
        self._next = (self._next + 1) % CHANNELS
        message = infer_request(self._model, request, self._ignore_eos)
        call = self._calls[self._next](iter((message,)), timeout=self._timeout, metadata=METADATA)
        reader = _Reader()
        try:
            for response in call:
                now = time.monotonic()
                if response.error_message:
                    raise TransportError(error_kind(response.error_message), response.error_message)
                tokens = reader.read(response.infer_response)
                if tokens and not on_message(now, tokens):
                    reader.end.left = True
                    break
        except grpc.RpcError as error:
            raise _translated(error) from None
        finally:
            call.cancel()
        return reader.finished()

    def close(self) -> None:
        for one in self._channels:
            one.close()


def channel(target: str, secure: bool) -> grpc.Channel:
    if secure:
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), OPTIONS)
    return grpc.insecure_channel(target, OPTIONS)


class _Reader:
    """Reads what the generator needs of each response; the order of the outputs is learnt once per stream."""

    def __init__(self) -> None:
        self.end = StreamEnd()
        self._text: list[bytes] = []
        self._counted = False
        self._order: list[str] = []

    def read(self, response: Any) -> int:
        """Output tokens so far if this message brought some, else 0."""
        raw = response.raw_output_contents
        if not raw:
            return 0
        if len(self._order) != len(raw):
            self._order = [output.name for output in response.outputs]
        values = dict(zip(self._order, raw, strict=True))
        text = values.get("text_output", b"")[4:]
        self._text.append(text)
        before = self.end.completion_tokens
        self._counts(values)
        if "completion_tokens" not in values:  # another ensemble: every message with text counts as one token
            self.end.completion_tokens += bool(text)
        return self.end.completion_tokens if self.end.completion_tokens > before else 0

    def _counts(self, values: dict[str, bytes]) -> None:
        end = self.end
        if (count := values.get("completion_tokens")) is not None:
            end.completion_tokens = INT32.unpack(count[:4])[0]
        if (count := values.get("prompt_tokens")) is not None:
            end.prompt_tokens = INT32.unpack(count[:4])[0]
        if (count := values.get("cached_tokens")) is not None:
            end.cached_tokens = INT32.unpack(count[:4])[0]
        if (reason := values.get("finish_reason")) is not None:
            self._counted = True
            end.finish_reason = reason[4:].decode()

    def finished(self) -> StreamEnd:
        end = self.end
        end.text = b"".join(self._text).decode("utf-8", "replace")
        if end.left:
            return end
        if self._counted and not end.finish_reason:
            raise TransportError("cut_short", "the stream ended without a finish_reason")
        if end.finish_reason in ("error", "cancelled"):
            raise TransportError(f"finish_{end.finish_reason}", f"the server ended the stream with {end.finish_reason}")
        return end


def infer_request(model: str, request: Request, ignore_eos: bool) -> Any:
    """The request for the ensemble: tensors of shape [1, 1], batch dimension first."""
    message = pb.ModelInferRequest(model_name=model)

    def add(name: str, datatype: str, raw: bytes) -> None:
        message.inputs.add(name=name, datatype=datatype, shape=(1, 1))
        message.raw_input_contents.append(raw)

    text = json.dumps(request.messages, ensure_ascii=False).encode()
    add("messages", "BYTES", struct.pack("<I", len(text)) + text)
    add("max_tokens", "INT32", INT32.pack(request.max_tokens))
    add("stream", "BOOL", b"\x01")
    add("seed", "UINT64", struct.pack("<Q", request.seed))
    if ignore_eos:
        add("ignore_eos", "BOOL", b"\x01")
    return message


def error_kind(message: str) -> str:
    """The serving layer's own prefixes; anything else is the server's."""
    if "queue: " in message[:60]:
        return "queue_full"
    if "engine: " in message[:60]:
        return "engine"
    return "server"


def _translated(error: grpc.RpcError) -> TransportError:
    details = " ".join(str(error.details() or "").split())[:300]
    kind = KINDS.get(error.code())
    if kind is None:
        kind = error_kind(details)
        if kind == "server":
            kind = "connect" if error.code() is grpc.StatusCode.UNAVAILABLE else error.code().name.lower()
    return TransportError(kind, details or error.code().name)
