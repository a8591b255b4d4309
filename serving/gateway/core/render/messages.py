"""Anthropic's /v1/messages: the message, the events of a stream, errors in Anthropic's shape. Pure."""

from __future__ import annotations

import uuid
from typing import Any

import orjson

from contract.errors import ContextTooLong
from serving.gateway.core.call_object import CallStart
from serving.gateway.core.choices import ChoiceUpdate
from serving.gateway.core.plan import GenerationPlan
from serving.gateway.core.render.base import AnswerHeader, BodyRenderer, StreamRenderer, Usage
from serving.gateway.core.tools import Content, Event
from serving.gateway.schema.context_words import anthropics
from serving.gateway.schema.errors import ApiError
from serving.gateway.schema.messages_protocol import NO_THREADS

JsonObject = dict[str, Any]
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "repetition": "repetition"}
_ERRORS = {  # any other below 500: invalid_request_error; else api_error
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 408: "timeout_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


def usage(used: Usage) -> JsonObject:
    """Anthropic's ``input_tokens`` are those that no cache had."""
    return {
        "input_tokens": used.prompt - used.cached, "cache_read_input_tokens": used.cached,
        "cache_creation_input_tokens": 0, "output_tokens": used.completion,
    }  # fmt: skip


def _error(error: ApiError) -> JsonObject:
    message = anthropics(error.message) if error.code == ContextTooLong.code else error.message
    inner: JsonObject = {
        "type": _ERRORS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error"),
        "message": message,
    }
    if error.code == NO_THREADS:
        inner["details"] = {"error_code": NO_THREADS}  # by which the SDK's tool runner knows to go on without
    return {"type": "error", "error": inner}


def error_body(error: ApiError) -> bytes:
    """``{"type": "error", "error": {type, message}}``."""
    return orjson.dumps(_error(error))


class Blocks:
    """The content blocks so far, and the events of each change to them."""

    def __init__(self, *, one_call: bool) -> None:
        self.blocks: list[JsonObject] = []
        self.stop_reason: str | None = None
        self.stop_sequence: str | None = None
        self._one_call, self._arguments = one_call, ""
        self._open = False

    def add(self, update: ChoiceUpdate) -> list[JsonObject]:
        found: list[Event] = [Content(update.text)] if update.events is None else update.events
        steps = []
        for event in found:
            if isinstance(event, Content):
                steps += self._text(event.text) if event.text else []
            elif not (self._one_call and event.index):
                steps += self._start(event.name) if isinstance(event, CallStart) else self._more(event.text)
        self.stop_sequence = update.stop or self.stop_sequence
        if update.finish:
            self.stop_reason = "stop_sequence" if self.stop_sequence else _REASONS[update.finish]
            steps += self._close()
        return steps

    def _text(self, text: str) -> list[JsonObject]:
        steps = [] if self._open and self.blocks[-1]["type"] == "text" else self._begin({"type": "text", "text": ""})
        self.blocks[-1]["text"] += text
        return [*steps, self._delta({"type": "text_delta", "text": text})]

    def _start(self, name: str) -> list[JsonObject]:
        steps = self._begin({"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:24]}", "name": name, "input": {}})
        self._arguments = ""  # only now: those of the call before go into its block when it is closed
        return steps

    def _more(self, text: str) -> list[JsonObject]:
        self._arguments += text
        return [self._delta({"type": "input_json_delta", "partial_json": text})]

    def _begin(self, block: JsonObject) -> list[JsonObject]:
        steps = self._close()
        self.blocks.append(block)
        self._open = True
        return [*steps, {"type": "content_block_start", "index": len(self.blocks) - 1, "content_block": dict(block)}]

    def _delta(self, delta: JsonObject) -> JsonObject:
        return {"type": "content_block_delta", "index": len(self.blocks) - 1, "delta": delta}

    def _close(self) -> list[JsonObject]:
        if not self._open:
            return []
        self._open, block = False, self.blocks[-1]
        if block["type"] == "tool_use":
            block["input"] = _object(self._arguments)
        return [{"type": "content_block_stop", "index": len(self.blocks) - 1}]


def _object(arguments: str) -> JsonObject:
    """The call's input: empty if max_tokens cut it off, or if it is not an object."""
    try:
        found = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


class _Envelope:
    def __init__(self, plan: GenerationPlan, header: AnswerHeader) -> None:
        self.content = Blocks(one_call=plan.one_call)
        self._head = {"id": header.id, "type": "message", "role": "assistant", "model": header.model}

    def object(self, used: Usage, *, started: bool = False) -> JsonObject:
        content = self.content
        return self._head | {
            "content": [] if started else content.blocks,
            "stop_reason": None if started else content.stop_reason,
            "stop_sequence": None if started else content.stop_sequence,
            "usage": usage(used),
        }


class MessagesStream(StreamRenderer):
    """The events of a streamed message."""

    def __init__(self, plan: GenerationPlan, header: AnswerHeader) -> None:
        self._message = _Envelope(plan, header)
        self._started = False

    def update(self, index: int, update: ChoiceUpdate, used: Usage) -> bytes:
        steps = self._message.content.add(update)
        if not self._started and (steps or update.finish):
            self._started = True
            steps = [{"type": "message_start", "message": self._message.object(used, started=True)}, *steps]
        return b"".join(map(_event, steps))

    def end(self, used: Usage) -> bytes:
        content = self._message.content
        delta = {"stop_reason": content.stop_reason, "stop_sequence": content.stop_sequence}
        last = {"type": "message_delta", "delta": delta, "usage": usage(used)}
        return _event(last) + _event({"type": "message_stop"})

    def error(self, error: ApiError) -> bytes:
        return _event(_error(error))


class MessagesBody(BodyRenderer):
    """The body of a message that is not streamed."""

    def __init__(self, plan: GenerationPlan, header: AnswerHeader) -> None:
        self._message = _Envelope(plan, header)

    def update(self, index: int, update: ChoiceUpdate) -> None:
        self._message.content.add(update)

    def body(self, used: Usage) -> bytes:
        return orjson.dumps(self._message.object(used))


def _event(fields: JsonObject) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (fields["type"].encode(), orjson.dumps(fields))
