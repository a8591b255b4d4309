"""One choice of an answer: engine responses in, updates for the renderers out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from client.errors import Cancelled, ChunkMissing, EngineUnavailable
from contract.packed import SequenceOutput
from contract.prompt_part import PromptPart
from serving.gateway.core.prompt_scores import PromptScores, ScoredToken
from serving.gateway.core.token_logprobs import TokenLogprobs
from serving.gateway.core.tools import Event, ToolParser

NOTHING = PromptPart()
_ID_BYTES = 4
PromptEntry = Callable[[ScoredToken], dict[str, Any] | None]  # vLLM's form of one token's score


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
        "_ended",
        "_first",
        "_held",
        "_keeps_stop",
        "_logprobs",
        "_may_stop",
        "_next",
        "_parser",
        "_passes_stops",
        "_prompt_entry",
        "_prompt_scores",
        "_stops",
        "finish",
        "ids",
        "index",
        "tokens",
    )

    def __init__(
        self,
        index: int,
        *,
        parser: ToolParser | None = None,
        logprobs: TokenLogprobs | None = None,
        stops: Sequence[str] = (),
        keeps_stop: bool = False,
        passes_stops: bool = False,
        may_stop: bool = False,
        prompt_entry: PromptEntry | None = None,
    ) -> None:
        """``stops``: strings that the engine leaves at the end of the text; with ``keeps_stop`` they stay there.
        ``passes_stops``: a text may hold one and go on, within ``min_tokens``.
        ``may_stop``: the request has stop strings or stop tokens. ``prompt_entry``: makes the answer's
        ``prompt_logprobs``, if they were asked for."""
        self.index, self.tokens = index, 0
        self.finish: str | None = None
        self._parser, self._logprobs, self._prompt_entry = parser, logprobs, prompt_entry
        self._next = self._first = 0
        self.ids = bytearray()  # INT32 each
        self._ended = False
        self._prompt_scores = PromptScores()
        self._may_stop = may_stop
        self._keeps_stop, self._passes_stops = keeps_stop, passes_stops
        self._held = ""  # a stop string that may have been passed
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
        self._ended = got.ended
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
        text, stop = self._without_stop(self._held + got.text, finish)
        events = self._events(text, finish) if self._parser else None
        if finish == "stop" and self._parser and self._parser.calls and not self._is_cut(finish):
            finish = self.finish = "tool_calls"
        part = PromptPart.unpack(got.prompt) if got.prompt else NOTHING
        scored = self._prompt_scores.add(part) if got.prompt else []
        logprobs = self._logprobs.of(got, scored) if self._logprobs else None
        entries = [self._prompt_entry(token) for token in scored] if self._prompt_entry else []
        return ChoiceUpdate(text, events, got.token_ids, logprobs, finish, stop, part.ids, entries)

    def _without_stop(self, text: str, finish: str | None) -> tuple[str, str]:
        """The text to show, and the stop string that ended it. An end token counts among the engine's tokens, and is
        marked among the ids or not there: without one, it was a stop string."""
        self._held = ""
        stop = next((s for s in self._stops if text.endswith(s)), "")
        shown = text if self._keeps_stop else text[: len(text) - len(stop)]
        if not (stop and self._passes_stops):
            return shown, stop
        if not finish:
            self._held = stop
            return text[: len(text) - len(stop)], ""
        ended = finish == "stop" and not self._ended and len(self.ids) == _ID_BYTES * self.tokens
        return (shown, stop) if ended else (text, "")

    def _events(self, text: str, finish: str | None) -> list[Event]:
        assert self._parser is not None
        events = self._parser.feed(text)
        return events + (self._parser.finish(cut=self._is_cut(finish)) if finish else [])

    def _is_cut(self, finish: str) -> bool:
        """Whether a limit or one of the request's stops ended the answer, and not the model. Nobody says which of the
        latter two it was: within a call it counts as a stop."""
        return finish == "length" or (self._may_stop and self._parser is not None and self._parser.in_call)
