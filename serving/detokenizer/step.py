"""The detokenizer step without Triton: chunks of token ids in, what the caller sees out, one state per live stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from contract.ack_table import AckTable
from contract.chunks import Chunk, IntArray, TextOptions, text_options, unpack
from contract.finish import FINISH_CODES
from serving.detokenizer.text import TextStream, TokenBytes


@dataclass(slots=True)
class Piece:
    """One chunk as the caller sees it. ``ids`` and ``log_probs`` end where a stop string was completed."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    chunk_index: int
    sequence_index: int
    ids: list[int]
    log_probs: list[float] | None  # None: not asked for
    cum_log_prob: float
    top_logprobs: bytes
    packed: bool = False  # the caller wants one tensor


class _State:
    __slots__ = ("cum_log_prob", "generation", "log_probs", "packed", "text", "tokens_at_stop")

    def __init__(self, generation: int, token_bytes: TokenBytes, options: TextOptions) -> None:
        self.generation = generation
        self.text = TextStream(token_bytes, options.stops, options.include_stop, options.min_tokens)
        self.log_probs, self.packed = options.log_probs, options.packed
        self.cum_log_prob = 0.0
        self.tokens_at_stop = 0


class Detokenizer:
    """Stateful per (slot, generation). A slot's new owner replaces what a vanished client left behind."""

    def __init__(self, token_bytes: TokenBytes, open_ack_table: Callable[[], AckTable]) -> None:
        self._token_bytes = token_bytes
        self._open_ack_table = open_ack_table
        self._ack_table: AckTable | None = None
        self._states: dict[int, _State] = {}

    @property
    def ack_table(self) -> AckTable:
        """Mapped at the first chunk: the engine has made it by then."""
        if self._ack_table is None:
            self._ack_table = self._open_ack_table()
        return self._ack_table

    def beat(self) -> None:
        """Tell the engine that this process lives."""
        self.ack_table.beat()

    def process(self, words: IntArray) -> list[Piece]:
        """All chunks of one response, in order; acknowledges each. Call in the order in which responses arrived."""
        return [self._one(chunk) for chunk in unpack(words)]

    def _one(self, chunk: Chunk) -> Piece:
        if chunk.slot < 0:  # the answer to a `stop` request belongs to no stream
            return Piece("", FINISH_CODES[chunk.finish], 0, 0, 0, 0, 0, [], None, 0.0, b"")
        echo = ""
        state = self._states.get(chunk.slot)
        if state is None or state.generation != chunk.generation:
            options = text_options(chunk.options)
            state = self._states[chunk.slot] = _State(chunk.generation, self._token_bytes, options)
            echo = options.echo
        text = echo + self._text(state, chunk)
        if chunk.finish:
            del self._states[chunk.slot]
        return self._piece(state, chunk, text)

    def _text(self, state: _State, chunk: Chunk) -> str:
        """Decode and acknowledge. The stop mark is written before the ack: the engine reads it after."""
        stream, before = state.text, state.text.tokens
        if stream.stopped:
            chunk.ids, chunk.log_probs, chunk.top_logprobs = [], [], b""
            text = ""
        else:
            text = stream.push(chunk.ids)
            if chunk.finish:
                text += stream.finish()
            self._cut(state, chunk, stream.tokens - before)
        self.ack_table.ack(chunk.slot, chunk.generation, chunk.seq)
        return text

    def _cut(self, state: _State, chunk: Chunk, used: int) -> None:
        """If a stop string was just completed: forget what came after it and tell the engine."""
        if not state.text.stopped:
            return
        state.tokens_at_stop = state.text.tokens  # not from the engine's count: an end token may have followed
        chunk.ids, chunk.log_probs = chunk.ids[:used], chunk.log_probs[:used]
        if chunk.top_logprobs:
            chunk.top_logprobs = orjson.dumps(orjson.loads(chunk.top_logprobs)[:used])
        if not chunk.finish:
            self.ack_table.stop(chunk.slot, chunk.generation)

    def _piece(self, state: _State, chunk: Chunk, text: str) -> Piece:
        stopped = state.text.stopped
        state.cum_log_prob += sum(chunk.log_probs)
        return Piece(
            text,
            "stop" if stopped and chunk.finish else FINISH_CODES[chunk.finish],
            chunk.prompt_tokens,
            state.tokens_at_stop if stopped else chunk.completion_tokens,
            chunk.cached_tokens,
            chunk.seq - 1,
            chunk.sequence_index,
            chunk.ids,
            chunk.log_probs if state.log_probs else None,
            state.cum_log_prob,
            chunk.top_logprobs,
            state.packed,
        )
