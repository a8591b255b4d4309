"""OpenAI's JSON on one side, this library's types on the other. Pure; used by both HTTP transports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from client import errors, refusals
from client.types import FinishReason, Options, Prompt, StreamChunk, TopLogprobs, is_ids
from contract.chunks import REPETITION
from contract.fields import BY_OPTION

_GUIDES = {"json_schema": "guided_json", "regex": "guided_regex", "ebnf_grammar": "guided_grammar"}
_NEEDS = {"guide": "guide_type", "top_logprobs": "logprobs", "prompt_top_logprobs": "prompt_logprobs"}
_FINISH: dict[str | None, FinishReason] = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "cancelled": "cancelled", "error": "error",
    "repetition": "repetition",
}  # fmt: skip


def path_of(prompt: Prompt) -> str:
    return "/v1/completions" if _is_raw(prompt) else "/v1/chat/completions"


def _is_raw(prompt: Prompt) -> bool:
    return isinstance(prompt, str) or is_ids(prompt)


def body(prompt: Prompt, options: Options, *, model: str, stream: bool) -> dict[str, Any]:
    """The request's JSON. Raises ``InvalidRequest`` for what the OpenAI API has no field for."""
    _check_pairs(options)
    out: dict[str, Any] = {"model": model, "stream": stream, "return_token_ids": True}
    if _is_raw(prompt):
        out["prompt"] = prompt if isinstance(prompt, str) else list(map(int, prompt))  # type: ignore[arg-type]
    else:
        out["messages"] = list(prompt)
    if stream:
        out["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    given = options.given()
    given.pop("return_prompt_ids", None)  # return_token_ids asks for them too
    if given.pop("prompt_logprobs", False):
        out["prompt_logprobs"] = given.pop("prompt_top_logprobs", 0)
    out |= _guide(given.pop("guide_type", ""), given.pop("guide", ""))
    if given.pop("logprobs", False):
        out["logprobs"] = 0 if _is_raw(prompt) else True
    if "logit_bias" in given:
        if not isinstance(given["logit_bias"], Mapping):
            problem = f"{given['logit_bias']!r:.80} maps no token ids to numbers; give a dict"
            raise errors.InvalidRequest("logit_bias", problem)
        out["logit_bias"] = {str(token): bias for token, bias in given.pop("logit_bias").items()}
    if "repetition_detection" in given:
        values = _listed(given.pop("repetition_detection"))
        if len(values) != len(REPETITION):
            problem = f"{len(values)} values; send three: {', '.join(REPETITION)}"
            raise errors.InvalidRequest("repetition_detection", problem)
        out["repetition_detection"] = dict(zip(REPETITION, values, strict=True))
    for name, value in given.items():
        field = BY_OPTION[name]
        if not field.api_name:
            raise errors.InvalidRequest(name, "the OpenAI API has no such field; use the gRPC transport")
        out[field.api_name] = _listed(value) if field.repeated or isinstance(value, tuple) else value
    return out


def _listed(value: Any) -> list[Any]:
    """One value alone is a list of it, as over gRPC."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]


def _check_pairs(options: Options) -> None:
    """What the tokenizer step refuses over gRPC, and these fields of OpenAI's could not even say."""
    for name, needed in _NEEDS.items():
        if getattr(options, name) and not getattr(options, needed):
            raise errors.InvalidRequest(name, f"{getattr(options, name)!r:.80} needs {needed}; set both or neither")
    for name in ("logprobs", "prompt_logprobs"):
        if getattr(options, name) not in (False, True):
            raise errors.InvalidRequest(name, f"{getattr(options, name)!r:.80} is not true or false")
    if options.top_logprobs:
        problem = f"{options.top_logprobs!r:.80} cannot be told by token id, as OpenAI's API names them by their text"
        raise errors.InvalidRequest("top_logprobs", f"{problem}; use the gRPC transport")


def _guide(kind: str, guide: str) -> dict[str, Any]:
    if kind == "json":
        return {"response_format": {"type": "json_object"}}
    if kind == "structural_tag":
        return {"structured_outputs": {kind: guide}}
    if kind and kind not in _GUIDES:
        raise errors.InvalidRequest("guide_type", f"{kind!r:.80} is unknown; docs/fields.md lists them")
    return {_GUIDES[kind]: guide} if kind else {}


class AnswerDecoder:
    """Decodes the events of one answer. Counts chunks itself: the OpenAI format has no index."""

    def __init__(self) -> None:
        self._index: dict[int, int] = {}
        self.finished = False

    def event(self, data: bytes) -> list[StreamChunk]:
        """Raises the exception an error event stands for."""
        if data == b"[DONE]":
            self.finished = True
            return []
        event = orjson.loads(data)
        if "error" in event:
            raise error_of(int(event["error"].get("status") or 500), event, None)
        usage = event.get("usage") or {}
        return [self._chunk(choice, usage, event) for choice in event.get("choices", ())]

    def _chunk(self, choice: Mapping[str, Any], usage: Mapping[str, Any], event: Mapping[str, Any]) -> StreamChunk:
        """``event``: where a chat has the prompt's ids; a completion has them in the choice."""
        at = choice["index"]
        index = self._index[at] = self._index.get(at, -1) + 1
        text = choice["delta"].get("content") if "delta" in choice else choice["text"]
        reason = choice.get("finish_reason")
        prompt_ids = tuple(choice.get("prompt_token_ids") or event.get("prompt_token_ids") or ())
        scores, score_tops = _read_prompt(prompt_ids, choice.get("prompt_logprobs") or event.get("prompt_logprobs"))
        return StreamChunk(
            text or "", _FINISH[reason] if reason else None, tuple(choice.get("token_ids") or ()),
            usage.get("completion_tokens", 0), usage.get("prompt_tokens", 0), _cached(usage), index, at,
            _read_logprobs(choice.get("logprobs")), (), prompt_ids, scores, score_tops,
        )  # fmt: skip


def whole(data: Mapping[str, Any]) -> StreamChunk:
    """A non-streamed answer of one choice."""
    choice = data["choices"][0]
    return AnswerDecoder()._chunk(
        {**choice, "delta": choice["message"]} if "message" in choice else choice, data.get("usage") or {}, data
    )


def _cached(usage: Mapping[str, Any]) -> int:
    return int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


def _read_logprobs(raw: Any) -> tuple[float, ...]:
    if not raw:
        return ()
    values = [entry["logprob"] for entry in raw["content"]] if "content" in raw else raw["token_logprobs"]
    return tuple(-math.inf if v is None else float(v) for v in values)


def _read_prompt(ids: Sequence[int], raw: Any) -> tuple[tuple[float, ...], tuple[TopLogprobs, ...]]:
    """vLLM's form: for each token but the first ``{token id: {logprob, rank, …}}``."""
    entries = [{int(key): value for key, value in entry.items()} for entry in (raw or [None])[1:]]
    scores = tuple(float(entry[token]["logprob"]) for token, entry in zip(ids[1:], entries, strict=False))
    tops = tuple(
        tuple((key, float(value["logprob"])) for key, value in sorted(entry.items(), key=lambda item: item[1]["rank"]))
        for entry in entries
    )
    return scores, tops if any(len(top) > 1 for top in tops) else ()


def error_of(status: int, parsed: Any, retry_after: str | None) -> errors.ClientError:
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if not isinstance(error, dict):
        error = {"message": f"HTTP {status}: {str(parsed)[:200]}"}
    wait = float(retry_after) if retry_after and retry_after.replace(".", "", 1).isdigit() else None
    return refusals.from_http(
        status, str(error.get("message")), code=str(error.get("code") or ""), param=str(error.get("param") or ""),
        retry_after=wait,
    )  # fmt: skip
