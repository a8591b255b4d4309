"""/v1/responses: the response object, and the typed events of a stream. Pure."""

from __future__ import annotations

import uuid
from typing import Any

import orjson

from serving.gateway.core.call_object import CallStart
from serving.gateway.core.choices import ChoiceUpdate
from serving.gateway.core.plan import GenerationPlan
from serving.gateway.core.render.base import AnswerHeader, BodyRenderer, StreamRenderer, Usage
from serving.gateway.core.tools import Content, Event, is_json
from serving.gateway.schema.errors import ApiError
from serving.gateway.schema.responses_protocol import ResponsesRequest
from serving.gateway.schema.responses_tools import namespaces

JsonObject = dict[str, Any]
_INCOMPLETE = {"length": "max_output_tokens", "repetition": "repetition"}


def usage(used: Usage) -> JsonObject:
    return {
        "input_tokens": used.prompt, "input_tokens_details": {"cached_tokens": used.cached, "cache_write_tokens": 0},
        "output_tokens": used.completion, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used.prompt + used.completion,
    }  # fmt: skip


class Items:
    """The output items so far, and the events of each change to them, as (type, fields)."""

    def __init__(self, *, one_call: bool, namespaces: dict[str, tuple[str, str]]) -> None:
        self._namespaces = namespaces
        self.done: list[JsonObject] = []
        self.finish: str | None = None
        self._one_call = one_call
        self._scores: list[JsonObject] = []  # log probs of tokens whose text is still held back
        self._open: JsonObject | None = None

    def add(self, update: ChoiceUpdate) -> list[tuple[str, JsonObject]]:
        """The events one update causes."""
        self._scores += (update.logprobs or {}).get("content") or []
        found: list[Event] = [Content(update.text)] if update.events is None else update.events
        steps = []
        for event in found:
            if isinstance(event, Content):
                if event.text:
                    steps += self._text(event.text)
                continue
            self._scores = []  # tokens of the tag and the call itself belong to no text
            if not (self._one_call and event.index):
                steps += self._start(event.name) if isinstance(event, CallStart) else self._arguments(event.text)
        if update.finish:
            self.finish = update.finish
            if not self.done and self._open is None:
                steps += self._message()  # an empty answer is still a message
            if self._scores and self._open and self._open["type"] == "message":
                steps += self._text("")
            steps += self._close("incomplete" if update.finish in _INCOMPLETE else "completed")
        return steps

    def _message(self) -> list[tuple[str, JsonObject]]:
        steps = self._close("completed")
        item = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "status": "in_progress", "role": "assistant"}
        part: JsonObject = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        steps.append(("output_item.added", {"output_index": len(self.done), "item": item | {"content": []}}))
        self._open = item | {"content": [part]}
        return [*steps, ("content_part.added", self._at_part() | {"part": part | {"logprobs": []}})]

    def _text(self, text: str) -> list[tuple[str, JsonObject]]:
        steps = [] if self._open and self._open["type"] == "message" else self._message()
        assert self._open is not None
        part = self._open["content"][0]
        scores, self._scores = self._scores, []
        part["text"] += text
        part["logprobs"] += scores
        return [*steps, ("output_text.delta", self._at_part() | {"delta": text, "logprobs": scores})]

    def _start(self, name: str) -> list[tuple[str, JsonObject]]:
        steps = self._close("completed")
        self._open = {
            "id": f"fc_{uuid.uuid4().hex}", "type": "function_call", "status": "in_progress",
            "call_id": f"call_{uuid.uuid4().hex[:24]}", "name": name, "arguments": "",
        }  # fmt: skip
        if name in self._namespaces:
            self._open["namespace"], self._open["name"] = self._namespaces[name]
        return [*steps, ("output_item.added", {"output_index": len(self.done), "item": dict(self._open)})]

    def _arguments(self, text: str) -> list[tuple[str, JsonObject]]:
        assert self._open is not None
        self._open["arguments"] += text
        return [("function_call_arguments.delta", self._at() | {"delta": text})]

    def _close(self, status: str) -> list[tuple[str, JsonObject]]:
        item = self._open
        if item is None:
            return []
        steps: list[tuple[str, JsonObject]] = []
        if item["type"] == "message":
            part = item["content"][0]
            done = {"text": part["text"], "logprobs": part["logprobs"]}
            steps += [
                ("output_text.done", self._at_part() | done),
                ("content_part.done", self._at_part() | {"part": part}),
            ]
        else:
            done = {"name": item["name"], "arguments": item["arguments"]}
            status = "completed" if is_json(item["arguments"]) else status
            steps.append(("function_call_arguments.done", self._at() | done))
        item["status"] = status
        steps.append(("output_item.done", {"output_index": len(self.done), "item": item}))
        self.done.append(item)
        self._open = None
        return steps

    def _at(self) -> JsonObject:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self.done)}

    def _at_part(self) -> JsonObject:
        return self._at() | {"content_index": 0}


class _Response:
    """The response object around the items."""

    def __init__(self, plan: GenerationPlan, header: AnswerHeader) -> None:
        request = plan.request
        assert isinstance(request, ResponsesRequest)
        given = request.model_dump(exclude_unset=True, by_alias=True)
        text = {"format": {"type": "text"}} | {k: v for k, v in (given.get("text") or {}).items() if v is not None}
        self.items = Items(one_call=plan.one_call, namespaces=namespaces(request.tools or ()))
        self._head: JsonObject = {
            "id": header.id, "object": "response", "created_at": header.created, "background": False,
            "instructions": request.instructions, "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": None, "metadata": request.metadata or {}, "model": header.model,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": request.previous_response_id,
            "prompt_cache_key": request.prompt_cache_key, "reasoning": {"effort": None, "summary": None},
            "safety_identifier": request.safety_identifier, "service_tier": "default", "store": bool(request.store),
            "temperature": request.temperature, "text": text, "tool_choice": given.get("tool_choice") or "auto",
            "tools": given.get("tools") or [], "top_logprobs": request.top_logprobs or 0, "top_p": request.top_p,
            "truncation": "disabled", "user": request.user,
        }  # fmt: skip

    def object(self, used: Usage | None = None) -> JsonObject:
        """The response object; in progress while ``used`` is ``None``."""
        cut = _INCOMPLETE.get(self.items.finish or "")
        return self._head | {
            "status": "in_progress" if used is None else "incomplete" if cut else "completed", "error": None,
            "incomplete_details": {"reason": cut} if cut and used else None,
            "output": self.items.done if used else [], "usage": used and usage(used),
        }  # fmt: skip


class ResponsesStream(StreamRenderer):
    """The events of a streamed response, numbered from 0."""

    def __init__(self, plan: GenerationPlan, header: AnswerHeader) -> None:
        self._response = _Response(plan, header)
        self._number = 0

    def update(self, index: int, update: ChoiceUpdate, used: Usage) -> bytes:
        steps = self._response.items.add(update)
        if steps and not self._number:
            opening = self._response.object()
            steps = [("created", {"response": opening}), ("in_progress", {"response": opening}), *steps]
        return b"".join(self._event(f"response.{kind}", fields) for kind, fields in steps)

    def kept(self, used: Usage) -> JsonObject:
        return self._response.object(used)

    def end(self, used: Usage) -> bytes:
        last = self._response.object(used)
        return self._event(f"response.{last['status']}", {"response": last})

    def error(self, error: ApiError) -> bytes:
        """OpenAI's fields at the top, and ``error`` as in a chat's stream."""
        fields = error.fields()
        own = {name: fields[name] for name in ("code", "message", "param")}
        return self._event("error", own | {"error": {**fields, "status": error.status}})

    def _event(self, name: str, fields: JsonObject) -> bytes:
        event = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(event))


class ResponsesBody(BodyRenderer):
    """The body of a response that is not streamed."""

    def __init__(self, plan: GenerationPlan, header: AnswerHeader) -> None:
        self._response = _Response(plan, header)

    def update(self, index: int, update: ChoiceUpdate) -> None:
        self._response.items.add(update)

    def kept(self, used: Usage) -> JsonObject:
        return self._response.object(used)

    def body(self, used: Usage) -> bytes:
        return orjson.dumps(self._response.object(used))
