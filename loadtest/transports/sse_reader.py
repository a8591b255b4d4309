"""What a server's bytes say of an answer: HTTP, parsed by geventhttpclient (llhttp, in C), and in it events of tokens.

Tokens are counted by the server: by the usage of each chunk where ``continuous_usage_stats`` is honoured; otherwise
each chunk with content counts as one until the final usage corrects the total. An answer is complete once it has given
its finish reason or ``[DONE]``, however its body or connection then ends.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from geventhttpclient.response import HTTPParseError, HTTPResponse

from client import refusals
from client.sse import Events
from contract import nesting
from loadtest.errors import TransportError, one_line
from loadtest.transports.base import OnMessage, StreamEnd

DOCUMENT = 16_384  # bytes kept of an answer that is not a stream
ANY_ZLIB = 47  # zlib's window bits for both of its encodings, gzip and deflate
TEXTS = ("content", "reasoning_content", "reasoning", "refusal")  # keys of a delta that bring tokens,
CALLS = ("tool_calls", "function_call")  # as these do


class _Body(HTTPResponse):
    """Collects body bytes; the parser calls ``_on_body``."""

    def __init__(self) -> None:
        super().__init__("POST")
        self.body = bytearray()
        self._unpack: Callable[[bytearray], bytes | bytearray] | None = None

    @property
    def complete(self) -> bool:
        """Whether the response has ended. An interim one (103 Early Hints) does not count."""
        return bool(self.message_complete) and self.status_code >= 200

    def _on_body(self, buf: bytearray) -> None:
        if self._unpack is None:  # some proxies compress although nobody asked them to
            packed = self.get("content-encoding") in ("gzip", "deflate")
            self._unpack = zlib.decompressobj(ANY_ZLIB).decompress if packed else lambda part: part
        self.body += self._unpack(buf)


class SseReader:
    def __init__(self, on_message: OnMessage) -> None:
        self.http = _Body()
        self.end = StreamEnd()
        self._on_message = on_message
        self._events = Events()
        self._text: list[str] = []
        self._start = bytearray()  # of a body that may not be a stream
        self._tokens = 0  # counted by messages; the server's total may differ
        self.done = self.begun = self._events_seen = self._live = False  # _live: usage grows from chunk to chunk

    @property
    def whole(self) -> bool:
        """Whether the answer has come to its end."""
        return self.done or bool(self.end.finish_reason)

    @property
    def is_document(self) -> bool:
        """Whether the answer is a refusal or a JSON object. Its body may end with the connection (HTTP/1.0)."""
        return bool(self.http.headers_complete) and (self.http.status_code != 200 or bool(self._document()))

    def feed(self, data: bytes, now: float) -> bool:
        """False when the caller abandons the stream."""
        self.begun = True
        try:
            self.http.feed(data)
        except (HTTPParseError, zlib.error) as error:
            raise TransportError("protocol", f"{type(error).__name__}: {error}") from None
        if not self.http.headers_complete or self.http.status_code != 200:
            return True
        arrived = bytes(self.http.body)
        self.http.body.clear()
        if not self._events_seen:
            self._start += arrived[:DOCUMENT]
        for event in self._events.feed(arrived):
            if not self._event(event, now):
                self.end.left = True
                return False
        return True

    def _event(self, data: bytes, now: float) -> bool:
        self._events_seen = True
        if data.strip() == b"[DONE]":
            self.done = True
        if self.done or not data:
            return True
        try:
            chunk = _json(data)
            error = chunk if _is_error(chunk) else chunk.get("error")
        except (ValueError, AttributeError):
            raise _strange("not a JSON object", data) from None
        if error:
            status = str(error.get("status") or error.get("code")) if isinstance(error, dict) else ""
            raise _refusal(int(status) if status.isdecimal() else 500, error)
        before, choices = self._tokens, chunk.get("choices") or ()
        try:
            content = self._content(choices)
            count = self._usage(chunk.get("usage") or {})
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise _strange("not a chunk of a chat", data) from None
        # With a finish reason, or without choices, the usage is the total and says nothing about this chunk.
        self._live = self._live or bool(count and choices and not self.end.finish_reason)
        if self._live and count and choices:
            self._tokens = count
        elif content:
            self._tokens += 1
        if not self.end.counted:
            self.end.completion_tokens = self._tokens
        return self._on_message(now, self._tokens) if self._tokens > before else True

    def _content(self, choices: Any) -> bool:
        """Whether these choices bring a part of the answer."""
        content = False
        for choice in choices:
            delta = choice.get("delta") or {}
            content = content or any(delta.get(name) for name in TEXTS + CALLS)
            self._text.append(_text(delta.get("content")))
            reason = choice.get("finish_reason")
            self.end.finish_reason = one_line(str(reason)) if reason else self.end.finish_reason
        return content

    def _usage(self, usage: Mapping[str, Any]) -> int:
        """Output tokens so far; 0 if this usage does not say: some servers send zeros until the end."""
        end, details = self.end, usage.get("prompt_tokens_details") or {}
        count = _count(usage, "completion_tokens")
        end.prompt_tokens = _count(usage, "prompt_tokens") or end.prompt_tokens
        end.cached_tokens = _count(details, "cached_tokens") or end.cached_tokens
        if count:
            end.counted, end.completion_tokens = True, count
        return count

    def finished(self) -> StreamEnd:
        text = "".join(self._text)  # two events may hold half a character each
        self.end.text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if self.end.left:
            return self.end
        if self.http.status_code != 200:
            raise self._refused()
        if not self._events_seen:
            if "error" in (answer := self._document()):
                raise _refusal(500, answer["error"])
            kind = self.http.get("content-type") or "no Content-Type"
            if "text/event-stream" in kind:
                raise TransportError("not_a_stream", f"no event in {kind}: {_shown(self._start) or 'it is empty'}")
            raise TransportError("not_a_stream", f"the server answered {kind}, not text/event-stream")
        if not self.whole:
            raise TransportError("cut_short", "the stream ended without a finish_reason or [DONE]")
        if self.end.finish_reason in ("error", "cancelled"):
            raise TransportError(f"finish_{self.end.finish_reason}", "the server gave up on the stream")
        return self.end

    def _document(self) -> dict[str, Any]:
        """The body as a JSON object; {} if it is not one."""
        try:
            return dict(orjson.loads(bytes(self._start or self.http.body)))
        except (ValueError, TypeError):
            return {}

    def _refused(self) -> TransportError:
        document, body = self._document(), bytes(self.http.body)
        told = next((document[name] for name in ("error", "detail", "message") if document.get(name)), None)
        status, there = self.http.status_code, self.http.get("location")
        said, answered = told or body[:200].decode("utf-8", "replace"), f"HTTP {status}"
        answered += f", moved to {there}" if there else ""
        refusal = _refusal(status, said)
        return TransportError(refusal.kind, f"{answered}: {refusal.message}" if said else answered, status)


def _json(data: bytes) -> Any:
    """Also what Python's servers write and its clients read, but orjson refuses: NaN, half characters."""
    try:
        return orjson.loads(data)
    except ValueError:
        return nesting.loads(data.decode("utf-8", "replace"))


def _count(usage: Mapping[str, Any], name: str) -> int:
    """A number of tokens; some servers write it as a string, or -1 for one they do not know."""
    return max(0, int(usage.get(name) or 0))


def _strange(what: str, data: bytes) -> TransportError:
    return TransportError("protocol", f"an event is {what}: {_shown(data)}")


def _shown(data: bytes | bytearray) -> str:
    return data[:80].decode("utf-8", "replace")


def _text(content: Any) -> str:
    """A delta's text. Mistral's reasoning models send it in parts. Raises ``TypeError`` where it is no text."""
    parts = (part.get("text") for part in content) if isinstance(content, list) else (content,)
    return "".join(part or "" for part in parts)


def _is_error(chunk: dict[str, Any]) -> bool:
    """vLLM's old errors say so in ``object``; others come as an event named ``error`` and have only a message."""
    return chunk.get("object") == "error" or (
        not ("choices" in chunk or "usage" in chunk) and bool(chunk.get("message") or chunk.get("detail"))
    )


def _refusal(status: int, error: Any) -> TransportError:
    """``error``: OpenAI's error object, or what other servers put in its place."""
    error = error if isinstance(error, dict) else {"message": error}
    message, code = str(error.get("message") or error), str(error.get("code") or "")
    code = "" if code.isdecimal() else code  # vLLM repeats the status here
    return TransportError(refusals.from_http(status, message, code=code).code, message, status)
