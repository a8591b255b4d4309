"""KServe v2 ``ModelStreamInfer``: one call per request, messages read where they arrive (see ``http2``)."""

from __future__ import annotations

import json
import struct
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote

import gevent
from gevent.lock import RLock
from tritonclient.grpc import service_pb2 as pb

from client import refusals
from contract.packed import SequenceOutput, unpack
from loadtest.errors import TransportError
from loadtest.scenarios.base import Request
from loadtest.transports.arrival import keep_stamping
from loadtest.transports.base import OnMessage, StreamEnd
from loadtest.transports.credentials import extra_headers, tls_context, triton_key
from loadtest.transports.http2 import Connection, Stream

SERVICE = "/inference.GRPCInferenceService"
STREAMS_PER_CONNECTION = 32  # as a client library of many users would share one
# Not `triton_grpc_error`: with it Triton 2.51 crashes after some thousand refused requests (client/refusals.py).
METADATA = {"user-agent": "qwen-triton-loadtest"}
INT32 = struct.Struct("<i")
STATUSES = (  # by number, https://github.com/grpc/grpc/blob/v1.75.0/doc/statuscodes.md
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


class Connections:
    """Where the server is, and its open connections."""

    def __init__(self, host: str, port: int, *, secure: bool = False) -> None:
        """Raises ``LoadtestError`` for a key or certificate of the environment that cannot be read."""
        self._host, self._port, self._tls = host, port, tls_context("h2") if secure else None
        self.metadata = METADATA | triton_key() | extra_headers()
        self._connections: list[Connection] = []
        self._opening = RLock()
        keep_stamping()

    def connection(self) -> Connection:
        """One with room for a stream. Raises ``TransportError``."""
        with self._opening:  # a burst of streams must not open a connection each
            self._connections = [c for c in self._connections if c.alive or c.streams]
            for one in self._connections:
                if one.alive and len(one.streams) < min(STREAMS_PER_CONNECTION, one.limit):
                    return one
            try:
                self._connections.append(Connection(self._host, self._port, self._tls))
            except OSError as error:
                raise TransportError("connect", f"{self._host}:{self._port}: {error}") from None
            return self._connections[-1]

    def call(self, method: str, message: Any, answer: type, timeout: float) -> Any:
        """A unary call. Raises ``TransportError``."""
        got: list[bytes] = []

        class Collect:
            def message(self, payload: bytes, stamp: float) -> bool:
                got.append(payload)
                return True

        connection = self.connection()
        stream = connection.open(f"{SERVICE}/{method}", self.metadata, message.SerializeToString(), Collect())
        _wait(connection, stream, timeout)
        return answer.FromString(got[0])  # type: ignore[attr-defined]

    def close(self) -> None:
        while self._connections:
            self._connections.pop().close()


class GrpcTransport:
    name = "grpc"

    def __init__(
        self,
        server: Connections,
        model: str,
        *,
        timeout: float,
        ignore_eos: bool,
        streamed: bool = True,
        packed: bool = False,
    ) -> None:
        self._server, self._model, self._timeout = server, model, timeout
        self._flags = {"stream": streamed, "ignore_eos": ignore_eos} | ({"packed_output": True} if packed else {})

    def stream(self, request: Request, on_message: OnMessage) -> StreamEnd:
        message = infer_request(self._model, request, self._flags)
        message.id = uuid.uuid4().hex
        deadline = time.monotonic() + self._timeout
        late = TransportError("timeout", f"no connection after {self._timeout:g} s")
        for attempt in (1, 2):
            with gevent.Timeout(max(0.001, deadline - time.monotonic()), late):  # others may wait for the same host
                connection = self._server.connection()
            reader = _GrpcReader(on_message, partial(self._ask_to_stop, connection, message.id))
            try:
                call = connection.open(
                    f"{SERVICE}/ModelStreamInfer", self._server.metadata, message.SerializeToString(), reader, deadline
                )
            except OSError as error:  # the connection went just now
                if attempt == 1:
                    continue
                raise TransportError("connect", str(error)) from None
            try:
                _wait(connection, call, self._timeout, reader, deadline)
                break
            except TransportError:
                if attempt == 2 or not call.unseen:
                    raise  # else it is a transparent retry: https://grpc.io/docs/guides/retry
            finally:
                connection.cancel(call)
        return reader.finished()

    def _ask_to_stop(self, connection: Connection, request_id: str) -> None:
        """Leave a stream by asking the server to end it: resetting it can crash Triton 2.51."""
        message = pb.ModelInferRequest(model_name=self._model, id=request_id)
        message.inputs.add(name="stop", datatype="BOOL", shape=(1, 1))
        message.raw_input_contents.append(b"\x01")
        path, metadata = f"{SERVICE}/ModelStreamInfer", self._server.metadata
        gevent.spawn(connection.open, path, metadata, message.SerializeToString(), _Deaf())

    def close(self) -> None:
        self._server.close()


class _Deaf:
    def message(self, payload: bytes, stamp: float) -> bool:
        return True


def _wait(
    connection: Connection,
    stream: Stream,
    timeout: float,
    reader: _GrpcReader | None = None,
    deadline: float | None = None,
) -> None:
    """Wait until the stream ends. Raises ``TransportError`` unless it ended well or the reader walked away.

    ``deadline`` (``time.monotonic``) replaces ``timeout`` where part of that has passed."""
    if not stream.done.wait(timeout if deadline is None else max(0.0, deadline - time.monotonic())):
        connection.cancel(stream)
        if reader is None or not reader.end.left:
            raise TransportError("timeout", f"no end after {timeout:g} s")
    if reader is not None:
        if reader.end.left:
            return
        if reader.failure is not None:
            raise reader.failure
    if stream.error:
        raise TransportError("cut_short" if stream.begun else "connect", stream.error)
    status = stream.headers.get("grpc-status", "")
    if status != "0":
        raise refusal(status, stream.headers)


def refusal(status: str, headers: dict[str, str]) -> TransportError:
    """The error of a call that the server answered with a status other than OK."""
    details = " ".join(unquote(headers.get("grpc-message", "")).split())[:300]
    if not status.isdigit():
        http = headers.get(":status", "")
        return TransportError("not_grpc", f"HTTP status {http or 'missing'}: is this a gRPC port?")
    name = STATUSES[int(status)] if int(status) < len(STATUSES) else "UNKNOWN"
    error = refusals.from_grpc(name, details, "the target")
    return TransportError(error.code, str(error) if details else f"gRPC status {status} ({name})")


class _GrpcReader:
    """Reads what the generator needs of each response; the order of the outputs is learnt once per stream."""

    def __init__(self, on_message: OnMessage, leave: Callable[[], None]) -> None:
        self._leave = leave
        self.end = StreamEnd()
        self.failure: TransportError | None = None
        self._on_message = on_message
        self._text: list[bytes] = []
        self._order: list[str] = []
        self._reasoned = False  # does this model say why it ends?

    def message(self, payload: bytes, stamp: float) -> bool:
        if self.end.left:
            return True  # read on to the end that the server was asked for
        try:
            response = pb.ModelStreamInferResponse.FromString(payload)
            if response.error_message:
                error = refusals.from_text(response.error_message)
                self.failure = TransportError(error.code, str(error)[:300])
                return False
            tokens = self._read(response.infer_response)
        except (ValueError, IndexError, struct.error) as error:
            self.failure = TransportError("protocol", f"{type(error).__name__}: {error}"[:300])
            return False
        if tokens and not self._on_message(stamp, tokens):
            self.end.left = True
            self._leave()
        return True

    def _read(self, response: Any) -> int:
        """Output tokens so far if this message brought some, else 0."""
        raw = response.raw_output_contents
        if len(raw) == 1 and response.outputs[0].name == "packed":
            return self._read_packed(unpack(raw[0]))
        if len(self._order) != len(raw):
            self._order = [output.name for output in response.outputs]
        values = dict(zip(self._order, raw, strict=True))
        text = values.get("text_output", b"")[4:]
        self._text.append(text)
        before = self.end.completion_tokens
        self._counts(values)
        if "completion_tokens" in values:
            self.end.counted = True
        else:  # another ensemble: every message with text counts as one token
            self.end.completion_tokens += bool(text)
        return self.end.completion_tokens if self.end.completion_tokens > before else 0

    def _read_packed(self, got: SequenceOutput) -> int:
        end, before = self.end, self.end.completion_tokens
        self._text.append(got.text.encode())
        end.counted = self._reasoned = True
        end.prompt_tokens, end.completion_tokens = got.prompt_tokens, got.completion_tokens
        end.cached_tokens, end.finish_reason = got.cached_tokens, got.finish or ""
        return end.completion_tokens if end.completion_tokens > before else 0

    def _counts(self, values: dict[str, bytes]) -> None:
        end = self.end
        for name in ("completion_tokens", "prompt_tokens", "cached_tokens"):
            if (count := values.get(name)) is not None:
                setattr(end, name, INT32.unpack(count[:4])[0])
        if (reason := values.get("finish_reason")) is not None:
            self._reasoned = True
            end.finish_reason = reason[4:].decode()

    def finished(self) -> StreamEnd:
        end = self.end
        end.text = b"".join(self._text).decode("utf-8", "replace")
        if end.left:
            return end
        if self._reasoned and not end.finish_reason:
            raise TransportError("cut_short", "the stream ended without a finish_reason")
        if end.finish_reason in ("error", "cancelled"):
            raise TransportError(f"finish_{end.finish_reason}", f"the server ended the stream with {end.finish_reason}")
        return end


def infer_request(model: str, request: Request, flags: dict[str, bool]) -> Any:
    """The request for the ensemble: tensors of shape [1, 1], batch dimension first."""
    message = pb.ModelInferRequest(model_name=model)

    def add(name: str, datatype: str, raw: bytes) -> None:
        message.inputs.add(name=name, datatype=datatype, shape=(1, 1))
        message.raw_input_contents.append(raw)

    text = json.dumps(request.messages, ensure_ascii=False).encode()
    add("messages", "BYTES", struct.pack("<I", len(text)) + text)
    add("max_tokens", "INT32", INT32.pack(request.max_tokens))
    add("seed", "UINT64", struct.pack("<Q", request.seed))
    for name, value in flags.items():
        add(name, "BOOL", bytes([value]))
    return message
