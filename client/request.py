"""One running request over gRPC, except for the waiting: what the blocking and the asyncio stream have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from client import errors, kserve, refusals
from client.channels import CUT_SHORT, Channels
from client.credentials import Credentials
from client.option_names import in_options
from client.patience import KnownServer, Patience
from client.sequences import (
    ONE_SEQUENCE,
    Order,
    breaks_off,
    refuses_to_resume,
    resume_delay,
    resumed,
    retry_delay,
    unresumed,
)
from client.types import Bounds, Options, Prompt, Retry, StreamChunk, Timeouts

Metadata = Sequence[tuple[str, str]]
LOOK_SECONDS = 0.1  # a stream that waits for its next attempt sees within this time that it was cancelled
LEAVING_SECONDS = 1.0  # at most that ``close()`` waits for the ends of requests that it stops
STOP_SECONDS = 5.0  # bound on a stop request, which answers at once


class Channel:
    """A gRPC channel to one Triton. ``module``: ``grpc`` or ``grpc.aio``.

    ``ModelStreamInfer`` is called through ``unary_stream``: on the wire that is the same bidirectional call with one
    message and an immediate half-close, without the task or thread that feeds a request iterator."""

    def __init__(self, module: Any, target: str, credentials: Credentials, model: str) -> None:
        self.target, self.model, self.metadata = target, model, credentials.metadata
        self.server = KnownServer()
        self.raw = credentials.channel(module, target, list(kserve.CHANNEL_OPTIONS))  # other calls bring ``metadata``
        self._infer = self.raw.unary_stream(
            kserve.METHOD,
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )

    def _stop(self, request_id: str, route: Metadata) -> Any:
        """The call that frees the engine's slot of a running request."""
        request = kserve.stop_request(request_id, self.model)
        return self._infer(request, timeout=STOP_SECONDS, metadata=(*self.metadata, *route))

    def error(self, error: grpc.RpcError) -> errors.ClientError:
        return refusals.from_grpc(error.code().name, error.details() or "", self.target)


class Deadline:
    """The first-token and between-chunk bounds of one attempt. A clock (timer or thread) calls ``check``.

    Per chunk this costs one assignment. It must not hold the stream: a dropped stream has to be collected at once.
    """

    __slots__ = ("_bound", "_expire", "_expired", "_phase", "due", "over")

    def __init__(self, seconds: float | None, now: float, expire: Callable[[], object]) -> None:
        self._phase, self._bound, self._expire = "first token", seconds, expire
        self.due = self._at(now)
        self._expired: tuple[str, float] | None = None
        self.over = False  # the attempt has ended: nothing to watch

    def _at(self, now: float) -> float:
        return now + self._bound if self._bound is not None else float("inf")

    def chunk(self, now: float, bound: float | None) -> None:
        self._phase, self._bound = "between chunks", bound
        self.due = self._at(now)

    def check(self, now: float) -> bool:
        """True when the bound has passed; the request is then being stopped."""
        if now < self.due:
            return False
        self._expired = self._phase, self._bound or 0.0
        self._expire()
        return True

    @property
    def expired(self) -> errors.RequestTimeout | None:
        """A new one each time: once raised, it holds the frames that it has passed."""
        return errors.RequestTimeout(*self._expired) if self._expired else None


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt and how to ask for it."""

    prompt: Prompt
    options: Options
    stream: bool
    timeouts: Timeouts
    retry: Retry
    metadata: Metadata = ()


class RunningRequest:
    """Base of the two streams: start, end, stop, and what an error means.

    A stream that breaks off is resumed after the tokens it has, on another server where there are several. The caller
    sees one stream: no token comes twice, and ``chunk_index`` keeps counting.
    """

    _call: Any
    _channel: Any  # of the attempt under way
    _deadline: Deadline | None

    def __init__(self, channels: Channels[Any], new_id: Callable[[], str], ask: Ask) -> None:
        self._done, self._call, self._deadline = True, None, None  # what __del__ sees when the next lines raise
        self._leased = False
        self.request_id = new_id()
        self._channels, self._new_id, self._ask = channels, new_id, ask
        self._channel = channels.all[0]
        self._request = self._written(ask.options)
        self._order = Order(ask.options.n)
        self._attempt = 0
        self._ids: list[int] = []  # of the answer so far
        self._skipped = 0  # chunks of earlier attempts
        self._patience, self._heard = Patience(ask.retry), False  # whether this attempt was answered
        self._broken: errors.ClientError | None = None  # why the answer has to be resumed
        self._bounds, self._process = Bounds(ask.timeouts), os.getpid()
        self._done = self._client_closed = False
        channels.opened(self)

    def _written(self, options: Options) -> Any:
        ask, model = self._ask, self._channel.model
        try:
            return kserve.infer_request(self.request_id, ask.prompt, options, stream=ask.stream, model=model)
        except errors.InvalidRequest as error:
            raise in_options(error, self._ask.options.guide_type) from None

    def _choose(self) -> Any:
        """The channel of the next attempt."""
        self._bounds.start()
        self._channel = self._channels.pick()
        self._leased = True
        return self._channel

    def _connect_bound(self) -> float | None:
        bounds = (self._ask.timeouts.connect, self._bounds.left())
        return min((s for s in bounds if s is not None), default=None)

    def _begin(self, now: float) -> Deadline:
        """Send the request. The caller watches the deadline."""
        self._attempt += 1
        self._heard = False
        channel, request_id = self._channel, self.request_id
        call = channel.call(self._request, self._bounds.left(), self._ask.metadata)

        def expire() -> None:
            channel.stop(request_id, call.route)
            call.cancel()

        self._call = call
        first = self._ask.timeouts.first_token if self._ask.stream else None
        self._deadline = Deadline(first, now, expire)
        return self._deadline

    def _chunk(self, message: Any, now: float) -> StreamChunk | None:
        """The message's chunk, checked; ``None`` for Triton's empty final response."""
        self._channel.server.answered = True
        got = kserve.output(message)
        if got is None:
            return None
        if self._deadline:
            self._deadline.chunk(now, self._ask.timeouts.between_chunks)
        chunk = kserve.stream_chunk(got)
        if self._skipped:
            chunk = replace(chunk, chunk_index=chunk.chunk_index + self._skipped)
        try:
            self._order.check(chunk)
        except errors.StreamBroken:
            self._stop_remote()
            raise
        if chunk.token_ids:
            self._ids += chunk.token_ids
            self._attempt = 1
        if not self._heard:
            self._heard = True
            self._channel.server.answers()
            self._patience.renew()
        return chunk

    def _failure(self, error: grpc.RpcError) -> errors.ClientError:
        if self._deadline and self._deadline.expired:
            return self._deadline.expired
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._stop_remote()
            return errors.RequestTimeout("total", self._ask.timeouts.total or 0.0)
        meant: errors.ClientError = self._channel.error(error)
        if isinstance(meant, errors.ConnectError):
            to, why = self._channel.target, error.details() or ""
            if self._heard and self._order.started:
                return refusals.lost(to, why, self._order.tokens)
            return refusals.unreachable(to, why, known=self._channel.server.answered)
        return meant

    def _again_in(self, error: errors.ClientError) -> float:
        """Seconds until the next attempt. Raises what ``error`` means when there must be none."""
        if self._done:  # ``cancel()`` came from another thread or task: the iteration simply ends
            return 0.0
        self._end(failed=breaks_off(error))
        delay = self._delay(error)
        if delay is None or not self._bounds.allow(delay):
            self._over()
            try:
                raise self._told(error)
            finally:
                del error  # an exception that is found in a frame of its own holds them all, the reader's too
        self.request_id = self._request.id = self._new_id()  # the old id may still be known to the server
        if self._ids:
            self._broken = self._broken or error.with_traceback(None)
            self._broken.__context__ = None  # it would hold this stream's frames, and with them the stream
            self._skipped = self._order.chunks
            self._request = self._written(resumed(self._ask.options, self._ids))
        return delay

    def _told(self, error: errors.ClientError) -> errors.ClientError:
        """What the reader is told when ``error`` is the end."""
        broken, self._broken = self._broken, None
        if broken and (refuses_to_resume(error) or breaks_off(error)):  # what ended the answer comes first
            broken.__cause__ = error
            return unresumed(broken, str(error))
        if self._ids and self._ask.options.n > 1 and breaks_off(error):
            return unresumed(error, ONE_SEQUENCE)
        return in_options(error, self._ask.options.guide_type)

    def _delay(self, error: errors.ClientError) -> float | None:
        ask, order, patience = self._ask, self._order, self._patience.left(self._channel.server)
        if self._ids and ask.options.n == 1 and not order.complete:
            return resume_delay(error, self._attempt, ask.retry, len(self._channels.all) > 1, patience)
        return retry_delay(error, self._attempt, ask.retry, order.started, patience)

    def _finish(self) -> None:
        """The server has closed the stream. Raises ``StreamCut`` when sequences are missing their end."""
        self._order.ended()
        self._end()
        self._over()

    def _over(self) -> None:
        self._done = True
        self._channels.ended(self)

    def _end(self, *, failed: bool = False) -> None:
        call, self._call = self._call, None
        if self._leased:
            self._leased = False
            self._channels.left(self._channel, failed=failed)
        if self._deadline:
            self._deadline.over = True
        if call is not None:
            call.cancel()

    def _stop_remote(self) -> None:
        self._channel.stop(self.request_id, self._call.route if self._call else ())

    def cancel(self) -> None:
        """Stop the request and free its slot in the engine; returns at once. The iteration then simply ends."""
        if not self._done and self._process != os.getpid():  # a fork's copy: the request is the parent's
            self._done = True
            return
        if not self._done and self._call is not None and not self._order.complete:
            self._stop_remote()
        if not self._done:
            self._over()
        self._end()

    def end_with_client(self) -> None:
        """As ``cancel``, but the reader is told: it did not ask for this."""
        self._client_closed = not self._done
        self.cancel()

    def _check_open(self) -> None:
        """At the end of an iteration. Raises ``Cancelled`` when it is none of the answer."""
        if self._client_closed:
            raise errors.Cancelled(CUT_SHORT)
