"""OpenAI's JSON on one side, this library's types on the other. Pure; used by both HTTP transports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

import orjson

from client import errors, refusals
from client.json_text import dumped
from client.types import FinishReason, Options, Prompt, StreamChunk, TopLogprobs, is_ids
from contract import ranges
from contract.chunks import REPETITION
from contract.errors import shown
from contract.fields import BY_OPTION, INT32_MAX

_GUIDES = {"json_schema": "guided_json", "regex": "guided_regex", "ebnf_grammar": "guided_grammar"}
_BY_ID = "token_id:"
_FINISH: dict[str | None, FinishReason] = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "cancelled": "cancelled", "error": "error",
    "repetition": "repetition",
}  # fmt: skip


def path_of(prompt: Prompt) -> str:
    return "/v1/completions" if _is_raw(prompt) else "/v1/chat/completions"


def _is_raw(prompt: Prompt) -> bool:
    return isinstance(prompt, str) or is_ids(prompt)


def body(prompt: Prompt, options: Options, *, model: str, stream: bool) -> dict[str, Any]:
    """The request's JSON. ``options``: as ``client.option_check`` has them. Raises ``InvalidRequest`` for what the
    OpenAI API has no field for."""
    out: dict[str, Any] = {"model": model, "stream": stream, "return_token_ids": True}
    out["return_end_token"] = options.return_end_token  # its default would be the line above
    if _is_raw(prompt):
        out["prompt"] = prompt if isinstance(prompt, str) else _ids(prompt)
    else:
        out["messages"] = orjson.Fragment(dumped("messages", list(prompt)))
    if stream:
        out["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    given = options.given()
    given.pop("return_prompt_ids", None)  # return_token_ids asks for them too
    if given.pop("prompt_logprobs", False):
        if stream:
            raise _missing("prompt_logprobs", "OpenAI's API has none in streams", "use generate with n = 1, or")
        out["prompt_logprobs"] = given.pop("prompt_top_logprobs", 0)
    out |= _guide(given.pop("guide_type", ""), given.pop("guide", ""))
    if given.pop("logprobs", False):
        out["logprobs"] = 0 if _is_raw(prompt) else True
    if top := given.pop("top_logprobs", 0):
        out |= {"logprobs": top} if _is_raw(prompt) else {"top_logprobs": top}
        out["return_tokens_as_token_ids"] = True  # vLLM's; OpenAI has only their texts
    if biases := given.pop("logit_bias", None):
        out["logit_bias"] = {str(token): bias for token, bias in biases.items()}
    if priority := given.pop("priority", 0):
        out["priority"] = -priority  # vLLM's sense: lower is sooner
    if values := given.pop("repetition_detection", ()):
        out["repetition_detection"] = dict(zip(REPETITION, values, strict=True))
    for name, value in given.items():
        field = BY_OPTION[name]
        if not field.api_name:
            raise _missing(name, "the OpenAI API has no such field")
        out[field.api_name] = list(value) if isinstance(value, tuple) else value
    return out


def _missing(name: str, problem: str, remedy: str = "") -> errors.InvalidRequest:
    return errors.InvalidRequest(name, f"{problem}; {remedy or 'use'} the gRPC transport")


def _ids(prompt: Any) -> list[int]:
    """Plain integers: neither NumPy's can be sent as JSON nor those that no tensor holds."""
    try:
        ids = list(map(index, prompt))
    except TypeError:
        wrong = next(value for value in prompt if not hasattr(value, "__index__"))
        raise errors.InvalidRequest("prompt", f"{shown(wrong)} is not an integer; give integers") from None
    for wrong in (each for each in ids if abs(each) > INT32_MAX):
        raise errors.InvalidRequest("prompt", ranges.integer(wrong, (0, INT32_MAX)))
    return ids


def _guide(kind: str, guide: str) -> dict[str, Any]:
    if kind == "json":
        return {"response_format": {"type": "json_object"}}
    if kind == "structural_tag":
        return {"structured_outputs": {kind: guide}}
    return {_GUIDES[kind]: guide} if kind else {}


class AnswerDecoder:
    """Decodes the events of one answer. Counts chunks itself: the OpenAI format has no index."""

    def __init__(self, tops: int = 0) -> None:
        """``tops``: how many alternatives for each token were asked for."""
        self._tops = tops
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
        scored = choice.get("logprobs")
        return StreamChunk(
            text or "", _FINISH[reason] if reason else None, tuple(choice.get("token_ids") or ()),
            usage.get("completion_tokens", 0), usage.get("prompt_tokens", 0), _cached(usage), index, at,
            _read_logprobs(scored), _read_tops(scored, self._tops), prompt_ids, scores, score_tops,
        )  # fmt: skip


def whole(data: Mapping[str, Any], tops: int = 0) -> StreamChunk:
    """A non-streamed answer of one choice."""
    choice = data["choices"][0]
    return AnswerDecoder(tops)._chunk(
        {**choice, "delta": choice["message"]} if "message" in choice else choice, data.get("usage") or {}, data
    )


def _cached(usage: Mapping[str, Any]) -> int:
    return int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


def _read_logprobs(raw: Any) -> tuple[float, ...]:
    if not raw:
        return ()
    values = [entry["logprob"] for entry in raw["content"]] if "content" in raw else raw["token_logprobs"]
    return tuple(-math.inf if v is None else float(v) for v in values)


def _read_tops(raw: Any, most: int) -> tuple[TopLogprobs, ...]:
    """Best first. A completion's have the chosen token in front, whether it is one of the best or not."""
    if not raw or not most:
        return ()
    if "content" in raw:
        rows = [[(top["token"], top["logprob"]) for top in entry["top_logprobs"]] for entry in raw["content"]]
    else:
        rows = [sorted(entry.items(), key=lambda item: -item[1])[:most] for entry in raw["top_logprobs"]]
    return tuple(tuple((_token_id(name), float(value)) for name, value in row) for row in rows)


def _token_id(name: str) -> int:
    if not name.startswith(_BY_ID):
        raise _missing("top_logprobs", "this server names tokens by their text, not by their id")
    return int(name.removeprefix(_BY_ID))


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
