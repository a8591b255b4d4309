"""One choice of an answer: engine responses in, updates for the renderers out. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson

from client.errors import Cancelled, ChunkMissing, EngineUnavailable
from contract.packed import SequenceOutput
from contract.prompt_part import PromptPart
from serving.gateway.core.prompt_scores import PromptScores, ScoredToken, entry
from serving.gateway.core.tools import Event, ToolParser

TokenText = Callable[[int], bytes]  # a token's bytes
NOTHING = PromptPart()
_utf8 = codecs.getincrementaldecoder("utf-8")
_Row = tuple[int, float | None, Sequence[Any]]  # token, log probability, alternatives


class ChoiceUpdate(NamedTuple):
    """What one engine response adds to a choice. ``stop``: the stop string that came after ``text`` and ended it.
    ``prompt_ids`` and ``prompt_logprobs`` (in vLLM's form): in the first response, if they were asked for."""

    text: str
    events: list[Event] | None  # replaces ``text`` when the answer is parsed for tool calls
    ids: list[int]
    logprobs: dict[str, Any] | None
    finish: str | None
    stop: str = ""
    prompt_ids: Sequence[int] = ()
    prompt_logprobs: Sequence[dict[str, Any] | None] = ()


class ChoiceState:
    """State of one choice while its chunks arrive. ``tokens`` is the engine's count so far."""

    __slots__ = (
        "_characters",
        "_chat",
        "_first",
        "_may_stop",
        "_next",
        "_parser",
        "_prompt_alternatives",
        "_prompt_scores",
        "_prompt_tops",
        "_stops",
        "_token_text",
        "_want_logprobs",
        "finish",
        "ids",
        "index",
        "offset",
        "tokens",
    )

    def __init__(
        self,
        index: int,
        *,
        chat: bool,
        parser: ToolParser | None,
        logprobs: bool,
        token_text: TokenText,
        stops: Sequence[str] = (),
        may_stop: bool = False,
        echoed_tops: int | None = None,
        prompt_logprobs: int | None = None,
    ) -> None:
        """``echoed_tops``: log probabilities begin with the prompt's, with this many alternatives. ``prompt_logprobs``:
        the prompt's are separate, in vLLM's form, with this many alternatives. ``stops``: strings that the engine
        leaves at the end of the text. ``may_stop``: the request has stop strings or stop tokens."""
        self.index, self.tokens, self.offset = index, 0, 0
        self._characters = _utf8("replace")
        self.finish: str | None = None
        self._chat, self._parser, self._token_text, self._want_logprobs = chat, parser, token_text, logprobs
        self._next = self._first = 0
        self.ids = bytearray()  # INT32 each
        self._prompt_scores = PromptScores()
        self._prompt_tops, self._prompt_alternatives = echoed_tops, prompt_logprobs
        self._may_stop = may_stop
        self._stops = sorted(stops, key=len, reverse=True)  # of several with the same end the engine takes the longest

    def check(self, got: SequenceOutput) -> str | None:
        """Check a chunk's order and finish reason, and return the latter. Raises ``ClientError``."""
        if got.chunk_index != self._next - self._first:
            raise ChunkMissing(f"engine: chunk {got.chunk_index} came where {self._next - self._first} was due")
        self._next += 1
        self.tokens = got.completion_tokens
        if got.finish == "cancelled":
            raise Cancelled("engine: the request was cancelled")
        if got.finish == "error":
            raise EngineUnavailable("engine: generation failed; try again")
        self.finish = got.finish
        self.ids += got.ids
        return self.finish

    @property
    def can_go_on(self) -> bool:
        """Whether another engine can take over: from the start, or after the tokens that have come."""
        return not self.finish and (self._next == 0 or bool(self.ids))

    def resume(self) -> list[int]:
        """The ids after which a new attempt resumes; its chunks count from 0."""
        self._first = self._next
        return memoryview(self.ids).cast("i").tolist()

    def update(self, got: SequenceOutput) -> ChoiceUpdate:
        finish = self.check(got)
        text = got.text
        stop = next((s for s in self._stops if text.endswith(s)), "")
        text = text[: len(text) - len(stop)]
        events = self._events(text, finish) if self._parser else None
        if finish == "stop" and self._parser and self._parser.calls and not self._is_cut(finish):
            finish = self.finish = "tool_calls"
        ids = got.token_ids
        part = PromptPart.unpack(got.prompt) if got.prompt else NOTHING
        scored = self._prompt_scores.add(part) if got.prompt else []
        logprobs = self._logprobs(ids, got, scored) if self._want_logprobs else None
        return ChoiceUpdate(text, events, ids, logprobs, finish, stop, part.ids, self._entries(scored))

    def _entries(self, scored: list[ScoredToken]) -> list[dict[str, Any] | None]:
        most = self._prompt_alternatives
        return [] if most is None else [entry(token, most, self._token_text) for token in scored]

    def _events(self, text: str, finish: str | None) -> list[Event]:
        assert self._parser is not None
        events = self._parser.feed(text)
        return events + (self._parser.finish(cut=self._is_cut(finish)) if finish else [])

    def _is_cut(self, finish: str) -> bool:
        """Whether a limit or one of the request's stops ended the answer, and not the model. Nobody says which of the
        latter two it was: within a call it counts as a stop."""
        return finish == "length" or (self._may_stop and self._parser is not None and self._parser.in_call)

    def _logprobs(self, ids: list[int], got: SequenceOutput, scored: list[ScoredToken]) -> dict[str, Any]:
        tops = orjson.loads(got.tops or b"[]")
        tops += [[]] * (len(ids) - len(tops))
        rows = list(zip(ids, got.token_log_probs, tops, strict=True))
        if self._chat:
            return self._chat_logprobs(rows)
        most = self._prompt_tops
        echoed: list[_Row] = [] if most is None else [(s.token, s.logprob, s.top[:most]) for s in scored]
        return self._completion_logprobs([*echoed, *rows])

    def _chat_logprobs(self, rows: list[tuple[int, float, list[Any]]]) -> dict[str, Any]:
        content = [
            {**self._scored(i, p), "top_logprobs": [self._scored(*entry) for entry in top]} for i, p, top in rows
        ]
        return {"content": content, "refusal": None}

    def _scored(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._token_text(token)
        return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}

    def _named(self, token: int) -> str:
        """A token as a dictionary key. Partial characters are spelled as OpenAI does; decoded they would collide."""
        raw = self._token_text(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def _completion_logprobs(self, rows: list[_Row]) -> dict[str, Any]:
        texts = [self._named(i) for i, _, _ in rows]
        offsets = []
        for i, _, _ in rows:  # over tokens: text may be held back for a stop; a split character counts with its last
            offsets.append(self.offset)
            self.offset += len(self._characters.decode(self._token_text(i)))
        tops = [
            None if score is None else {self._named(i): p for i, p in [*top, (chosen, score)]}
            for chosen, score, top in rows
        ]
        return {
            "tokens": texts,
            "token_logprobs": [p for _, p, _ in rows],
            "top_logprobs": tops,
            "text_offset": offsets,
        }
