"""The detokenizer step without Triton: chunks of token ids in, the same chunks with their text out.

It keeps one state per running sequence. Several threads may call it, never two for one sequence at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson

from contract.ack_table import MAX_GENERATION, AckTable
from contract.chunks import Chunk, IntArray, TextOptions, unpack
from contract.finish import FINISH_CODES
from serving.detokenizer.text import TextStream, TokenBytes

STOP, LENGTH = FINISH_CODES.index("stop"), FINISH_CODES.index("length")


class _State:
    __slots__ = ("cum_log_prob", "generation", "options", "seq", "text", "tokens_at_stop")

    def __init__(self, generation: int, token_bytes: TokenBytes, options: TextOptions) -> None:
        self.generation = generation
        self.text = TextStream(token_bytes, options.stops, options.include_stop, options.min_tokens)
        self.options = options
        self.seq = 0
        self.cum_log_prob = 0.0
        self.tokens_at_stop = 0


class Detokenizer:
    """Stateful per (slot, generation). A slot's new owner replaces what a vanished client left behind."""

    def __init__(
        self, token_bytes: TokenBytes, open_ack_table: Callable[[], AckTable], feeds: Sequence[int] = (0,)
    ) -> None:
        """``feeds``: the numbers of those that this process reads. A slot's chunks all come through the same one."""
        self._token_bytes = token_bytes
        self._open_ack_table, self._feeds = open_ack_table, feeds
        self._ack_table: AckTable | None = None
        self._states: dict[int, _State] = {}

    @property
    def ack_table(self) -> AckTable:
        """Mapped when the first chunk arrives: the engine step has created the file by then."""
        if self._ack_table is None:
            self._ack_table = self._open_ack_table()
        return self._ack_table

    def process(self, words: IntArray) -> list[Chunk]:
        """All chunks of one response, in order, with their text. Ids and log probabilities end where a stop string
        ended. A chunk without a slot or number belongs to no answer and stays as it is."""
        chunks = list(unpack(words))
        for chunk in chunks:
            if chunk.slot >= 0 and chunk.seq:
                self._complete(chunk)
        return chunks

    def forget(self, slot: int, generation: int) -> None:
        """The sequence has ended without a last chunk."""
        state = self._states.get(slot)
        if state is not None and state.generation == generation:
            del self._states[slot]

    def _complete(self, chunk: Chunk) -> None:
        state = self._states.get(chunk.slot)
        if state is None or state.generation != chunk.generation:
            self._check_owner(chunk)
            state = self._states[chunk.slot] = _State(chunk.generation, self._token_bytes, chunk.options)
            if chunk.options.resume_ids:
                self._replay(state, chunk)
            else:
                chunk.text = chunk.options.echo
        else:
            if chunk.seq != state.seq + 1:
                raise ValueError(f"chunk {chunk.seq} of slot {chunk.slot} came where {state.seq + 1} was due")
            chunk.options = state.options
        state.seq = chunk.seq
        self._decode(state, chunk)
        if chunk.log_probs:
            state.cum_log_prob += sum(chunk.log_probs)
        chunk.cum_log_prob = state.cum_log_prob
        if chunk.finish:
            del self._states[chunk.slot]
        if state.text.stopped:
            chunk.completion_tokens = state.tokens_at_stop
            chunk.finish = STOP if chunk.finish else 0
        if chunk.options.silent:
            _silence(chunk)

    def _check_owner(self, chunk: Chunk) -> None:
        """A slot's owners come in the order of their generations, so an old chunk that is sent again is refused."""
        if chunk.slot >= self.ack_table.slots:
            raise ValueError(f"slot {chunk.slot} of {self.ack_table.slots}")
        before = self.ack_table.owner(chunk.slot)
        if chunk.seq != 1 or not 0 < (chunk.generation - before) % MAX_GENERATION < MAX_GENERATION // 2:
            raise ValueError(f"chunk {chunk.seq} of slot {chunk.slot} is not its next owner's first one")
        self.ack_table.read_by(chunk.slot, chunk.generation, self._feeds[chunk.slot % len(self._feeds)])

    def _replay(self, state: _State, chunk: Chunk) -> None:
        """What the caller has is not sent again, but half a character or half a stop string may be completed."""
        state.text.push(chunk.options.resume_ids)
        self._cut(state, chunk, 0)

    def _decode(self, state: _State, chunk: Chunk) -> None:
        stream, before = state.text, state.text.tokens
        if stream.stopped:
            chunk.ids, chunk.log_probs, chunk.top_logprobs, chunk.ended = [], [], b"", False
            return
        chunk.text += stream.push(chunk.ids[:-1] if chunk.ended else chunk.ids)
        if chunk.finish:
            chunk.text += stream.finish(cut=chunk.finish != STOP)
        self._cut(state, chunk, stream.tokens - before)

    def _cut(self, state: _State, chunk: Chunk, used: int) -> None:
        """If a stop string was just completed, drop what came after it and tell the engine."""
        if not state.text.stopped:
            return
        state.tokens_at_stop = state.text.tokens  # not from the engine's count: an end token may have followed
        chunk.ids, chunk.log_probs, chunk.ended = chunk.ids[:used], chunk.log_probs[:used], False
        if chunk.top_logprobs:
            chunk.top_logprobs = orjson.dumps(orjson.loads(chunk.top_logprobs)[:used])
        if not chunk.finish:
            self.ack_table.stop(chunk.slot, chunk.generation)


def _silence(chunk: Chunk) -> None:
    """Keep only what concerns the prompt."""
    chunk.text = chunk.options.echo if chunk.seq == 1 else ""
    chunk.ids, chunk.log_probs, chunk.top_logprobs, chunk.ended, chunk.completion_tokens = [], [], b"", False, 0
    if chunk.finish == STOP:
        chunk.finish = LENGTH
