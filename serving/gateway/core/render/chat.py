"""/v1/chat/completions and /v1/completions: OpenAI's JSON around the engine's text. Pure; the gateway's hot path.

The constant parts of an event are built once per answer; a chunk costs one ``orjson.dumps`` of its text.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import orjson

from serving.gateway.core.call_object import CallArguments, CallStart
from serving.gateway.core.choices import ChoiceUpdate
from serving.gateway.core.plan import GenerationPlan
from serving.gateway.core.render.base import AnswerHeader, BodyRenderer, StreamRenderer, Usage
from serving.gateway.core.tools import Content, Event
from serving.gateway.schema.errors import ApiError

DONE = b"data: [DONE]\n\n"


def usage(used: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": used.prompt, "completion_tokens": used.completion,
        "total_tokens": used.prompt + used.completion, "prompt_tokens_details": {"cached_tokens": used.cached},
    }  # fmt: skip


def _head(kind: str, header: AnswerHeader) -> dict[str, Any]:
    about = {"id": header.id, "object": kind, "created": header.created, "model": header.model}
    return {**about, "system_fingerprint": header.fingerprint}


def _with_usage(used: Usage) -> bytes:
    """The end of an event that counts so far."""
    return b',"usage":%b}\n\n' % orjson.dumps(usage(used))


def stop_reason(stop: str | None, finish: str | None) -> str | None:
    """vLLM's: the stop string, or its word for an answer that repeated itself."""
    return stop or ("repetition_detected" if finish == "repetition" else None)


def finish_reason(plan: GenerationPlan, finish: str | None) -> str | None:
    """OpenAI's: a call of the function that the request named is what was asked for, and the answer has stopped."""
    return "stop" if finish == "tool_calls" and plan.named_call else finish


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def call_delta(event: CallStart | CallArguments) -> dict[str, Any]:
    if isinstance(event, CallStart):
        function = {"name": event.name, "arguments": ""}
        return {"index": event.index, "id": _call_id(), "type": "function", "function": function}
    return {"index": event.index, "function": {"arguments": event.text}}


class ChatStream(StreamRenderer):
    """The events of one streamed answer."""

    def __init__(self, plan: GenerationPlan, header: AnswerHeader) -> None:
        self._plan, self._chat = plan, plan.chat
        kind = "chat.completion.chunk" if plan.chat else "text_completion"
        self._head = b"data: " + orjson.dumps(_head(kind, header))[:-1]
        field = b'"delta":{"content":' if plan.chat else b'"text":'
        self._before = [self._head + b',"choices":[{"index":%d,' % i + field for i in range(plan.choices)]
        self._after = (b"}" if plan.chat else b"") + b',"logprobs":null,"finish_reason":null}]'
        self._unstarted = set(range(plan.choices)) if plan.chat else set()
        options = plan.stream_options
        self._tail = b',"usage":null}\n\n' if options.include_usage else b"}\n\n"
        # OpenAI's chats end with an event of their own. vLLM's last text brings the finish reason, and its clients of
        # completions and of usage per chunk count events.
        self._ends_with_text = options.continuous or not plan.chat
        self._null: set[int] = set()  # choices that began with null content and have said nothing yet
        self._stops: dict[int, str] = {}
        self._prompt_ids: dict[int, Sequence[int]] = {}  # by choice, until its next event; a chat has them once
        if not (plan.names_stop or plan.options.logprobs or plan.token_ids or plan.parser or options.continuous):
            self.plain = self._plain

    def _plain(self, index: int, text: str, finish: str | None) -> bytes:
        """Text without extras; ``b""`` for a partial character."""
        out = self._start(index) if index in self._unstarted and (text or finish) else b""
        if text and finish and self._ends_with_text:
            return out + self._event(index, {"text": text}, finish=finish)
        if text:
            out += self._before[index] + orjson.dumps(text) + self._after + self._tail
        return out + self._event(index, {}, finish=finish) if finish else out

    def _start(self, index: int, tail: bytes | None = None, content: str | None = "") -> bytes:
        """OpenAI's opening event, sent with the first text so that clients do not time it as the first token.
        ``content`` is null before a call: put together, a stream is then the whole answer's message."""
        self._unstarted.discard(index)
        return self._event(index, {"role": "assistant", "content": content}, tail=tail)

    def _told_prompt(self, index: int) -> dict[str, Any]:
        """The prompt's ids, with the first event of a choice."""
        ids = self._prompt_ids.pop(index, None)
        return {} if ids is None else {"prompt_token_ids": ids}

    def update(self, index: int, update: ChoiceUpdate, used: Usage) -> bytes:
        """An update with log probs, token ids, tool calls or usage per chunk."""
        if update.stop:
            self._stops[index] = update.stop
        if update.prompt_ids and self._plan.token_ids and (index == 0 or not self._chat):
            self._prompt_ids[index] = update.prompt_ids
        counted = self._plan.stream_options.continuous
        tail = _with_usage(used) if counted else None
        extras: dict[str, Any] = {"token_ids": update.ids} if self._plan.token_ids else {}
        deltas = [{"content": update.text}] if update.events is None else self._deltas(update.events)
        scored = update.logprobs and update.logprobs.get("tokens")  # of an echoed prompt, perhaps before any token
        wanted = scored or (update.ids and (self._plan.options.logprobs or self._plan.token_ids))
        if not self._chat:
            deltas = [{"text": update.text}] if update.text or wanted else []
        elif wanted and not deltas:  # where calls are looked for, nobody knows yet whether these tokens are text
            deltas = [{}] if update.events is not None else [{"content": ""}]
        elif not wanted:
            deltas = [delta for delta in deltas if delta != {"content": ""}]
        out = b""
        if index in self._unstarted and (deltas or update.finish):
            content = None if deltas and "content" not in deltas[0] else ""
            self._null |= {index} if content is None else set()
            out = self._start(index, _with_usage(used._replace(completion=0)) if counted else None, content)
        if any(deltas):
            self._null.discard(index)
        logprobs, finish = update.logprobs, update.finish
        if not deltas:
            extras, logprobs = {}, None
        if finish and not (deltas and self._ends_with_text):
            deltas = [*deltas, {}]
        if finish and index in self._null:
            deltas[-1] = {"content": ""}
        for at, delta in enumerate(deltas, 1):
            ends = finish if at == len(deltas) else None
            out += self._event(index, delta, extras, logprobs, ends, tail)
            extras, logprobs = {}, None  # they belong to the whole update and go with its first delta
        return out

    def _deltas(self, events: list[Event]) -> list[dict[str, Any]]:
        wanted = (e for e in events if isinstance(e, Content) or not (self._plan.one_call and e.index))
        return [{"content": e.text} if isinstance(e, Content) else {"tool_calls": [call_delta(e)]} for e in wanted]

    def _event(
        self, index: int, delta: dict[str, Any], extras: dict[str, Any] | None = None,
        logprobs: dict[str, Any] | None = None, finish: str | None = None, tail: bytes | None = None,
    ) -> bytes:  # fmt: skip
        inner = {"delta": delta} if self._chat else {"text": "", **delta}
        reason = finish_reason(self._plan, finish)
        choice = {"index": index, **inner, **(extras or {}), "logprobs": logprobs, "finish_reason": reason}
        if finish:
            choice["stop_reason"] = stop_reason(self._stops.get(index), finish)
        about = self._told_prompt(index) if self._prompt_ids else {}
        top = b"," + orjson.dumps(about)[1:-1] if about and self._chat else b""
        choice |= {} if self._chat else about
        return self._head + top + b',"choices":[' + orjson.dumps(choice) + b"]" + (tail or self._tail)

    def end(self, used: Usage) -> bytes:
        last = self._head + b',"choices":[],"usage":' + orjson.dumps(usage(used)) + b"}\n\n"
        return (last if self._plan.stream_options.include_usage else b"") + DONE

    def error(self, error: ApiError) -> bytes:
        """``status``: what the HTTP status would have been."""
        return b"data: " + orjson.dumps({"error": {**error.fields(), "status": error.status}}) + b"\n\n"


class ChatBody(BodyRenderer):
    """The body of an answer that is not streamed."""

    def __init__(self, plan: GenerationPlan, header: AnswerHeader) -> None:
        kind = "chat.completion" if plan.chat else "text_completion"
        self._head = _head(kind, header)
        self._plan = plan
        self._choices = [_ChoiceBody() for _ in range(plan.choices)]

    def update(self, index: int, update: ChoiceUpdate) -> None:
        self._choices[index].add(update)

    def body(self, used: Usage) -> bytes:
        choices = [self._choice(i, collected) for i, collected in enumerate(self._choices)]
        about = self._about_prompt(self._choices[0]) if self._plan.chat else {}
        return orjson.dumps({**self._head, "choices": choices, "usage": usage(used), **about})

    def _about_prompt(self, collected: _ChoiceBody) -> dict[str, Any]:
        """What a chat's body has at the top, and a completion's in each choice; null where nobody asked, as vLLM's."""
        return {
            "prompt_token_ids": collected.prompt_ids if self._plan.token_ids else None,
            "prompt_logprobs": None if self._plan.prompt_logprobs is None else collected.prompt_logprobs,
        }

    def _choice(self, index: int, collected: _ChoiceBody) -> dict[str, Any]:
        out: dict[str, Any] = {"index": index}
        out |= {"message": collected.message(self._plan.one_call)} if self._plan.chat else {"text": collected.text}
        out |= {"token_ids": collected.ids if self._plan.token_ids else None}
        out |= {} if self._plan.chat else self._about_prompt(collected)
        reason = finish_reason(self._plan, collected.finish)
        ends = {"finish_reason": reason, "stop_reason": stop_reason(collected.stop, collected.finish)}
        return out | {"logprobs": collected.logprobs, **ends}


class _ChoiceBody:
    def __init__(self) -> None:
        self.text = ""
        self.ids: list[int] = []
        self.prompt_ids: Sequence[int] = ()
        self.prompt_logprobs: list[Any] = []
        self.logprobs: dict[str, Any] | None = None
        self.finish: str | None = None
        self.stop = ""
        self._calls: list[dict[str, Any]] = []

    def add(self, update: ChoiceUpdate) -> None:
        self.ids += update.ids
        self.prompt_ids = update.prompt_ids or self.prompt_ids
        self.prompt_logprobs += update.prompt_logprobs
        self.finish = update.finish or self.finish
        self.stop = update.stop or self.stop
        if update.events is None:
            self.text += update.text
        for event in update.events or ():
            self._event(event)
        if update.logprobs is not None:
            self._add_logprobs(update.logprobs)

    def _add_logprobs(self, more: dict[str, Any]) -> None:
        if self.logprobs is None:
            self.logprobs = {name: [] if isinstance(value, list) else value for name, value in more.items()}
        for name, value in more.items():
            if isinstance(value, list):
                self.logprobs[name] += value

    def _event(self, event: Event) -> None:
        if isinstance(event, Content):
            self.text += event.text
        elif isinstance(event, CallStart):
            call = call_delta(event)
            del call["index"]
            self._calls.append(call)
        else:
            self._calls[event.index]["function"]["arguments"] += event.text

    def message(self, one_call: bool) -> dict[str, Any]:
        calls = self._calls[:1] if one_call else self._calls
        if not calls:
            return {"role": "assistant", "content": self.text, "refusal": None}
        return {"role": "assistant", "content": self.text or None, "refusal": None, "tool_calls": calls}
