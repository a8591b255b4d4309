"""Answers: the detokenizer's open replies, without Triton.

A sequence's first chunk comes through Triton with a ``Reply``, which stays open; later chunks come through the feed and
are answered by the same reply. The two arrive in different threads. The engine sends a sequence's next chunk only after
the acknowledgement of the previous one, which is written when that chunk's text has been sent. So the chunks of a
sequence never overtake each other, whichever thread they arrive in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from contract import feed
from contract.ack_table import GONE
from contract.chunks import Chunk, IntArray
from contract.errors import EngineUnavailable, InternalError, ServingError, from_wire
from serving.detokenizer.step import Detokenizer

log = logging.getLogger(__name__)

UNANSWERED = "detokenizer: the chunk could not be answered; see the server's log"


class Reply(Protocol):
    """Where the answer to one of the engine's responses goes."""

    def is_gone(self) -> bool:
        """The client was gone when Triton passed the engine's response on."""

    def send(self, chunks: list[Chunk], final: bool) -> None: ...

    def fail(self, error: ServingError) -> None:
        """End with an error."""

    def drop(self) -> None:
        """End without another response."""


class Answers:
    def __init__(self, detokenizer: Detokenizer) -> None:
        self._detokenizer = detokenizer
        self._replies: dict[int, tuple[int, Reply]] = {}  # slot -> generation and its open reply

    def receive(self, words: IntArray, reply: Reply) -> None:
        """One response of the engine step, from Triton's thread.

        Either the first chunk of a stream, or a whole answer, or a probe, which asks whether the client is there."""
        try:
            chunks = self._detokenizer.process(words)
            first = chunks[0]
            if first.seq == 0:
                number = GONE if reply.is_gone() else first.completion_tokens
                self._detokenizer.ack_table.probe(first.slot, first.generation, number)
                reply.drop()
            elif len(chunks) == 1 and first.slot >= 0 and not first.finish:
                self._open(first, reply)
            else:
                reply.send(chunks, final=True)
        except Exception as error:
            if not isinstance(error, ServingError):
                log.exception("a chunk could not be answered")
                error = InternalError(UNANSWERED)
            _end(partial(reply.fail, error), reply.drop)

    def feed(self, kind: int, words: IntArray) -> None:
        """A frame of the feed, from the thread that reads it. One for an answer that has ended is ignored."""
        slot, generation = int(words[0]), int(words[1])
        owner, reply = self._replies.get(slot, (0, None))
        if owner != generation or reply is None:
            return
        try:
            if kind == feed.CHUNK:
                self._continue(reply, words)
            elif kind == feed.ERROR:
                text = feed.error_text(words)
                error = from_wire(text) or EngineUnavailable(text)
                self._close(slot, generation, partial(reply.fail, error), reply.drop)
            else:
                self._close(slot, generation, reply.drop)
        except Exception:
            log.exception("a frame could not be answered")
            self._close(slot, generation, partial(reply.fail, InternalError(UNANSWERED)), reply.drop)

    def _open(self, first: Chunk, reply: Reply) -> None:
        before = self._replies.get(first.slot)
        self._replies[first.slot] = (first.generation, reply)
        if before is not None:  # the engine gave the slot away without a last word
            _end(before[1].drop)
        try:
            reply.send([first], final=False)
        except Exception:
            self._close(first.slot, first.generation)
            raise
        self._detokenizer.ack_table.ack(first.slot, first.generation, first.seq)

    def _continue(self, reply: Reply, words: IntArray) -> None:
        (chunk,) = self._detokenizer.process(words)
        if chunk.finish:
            fail = partial(reply.fail, InternalError(UNANSWERED))
            self._close(chunk.slot, chunk.generation, lambda: reply.send([chunk], final=True), fail, reply.drop)
        else:
            reply.send([chunk], final=False)
            self._detokenizer.ack_table.ack(chunk.slot, chunk.generation, chunk.seq)

    def _close(self, slot: int, generation: int, *last_words: Callable[[], None]) -> None:
        if self._replies.get(slot, (0, None))[0] == generation:  # and not its next owner's
            del self._replies[slot]
        self._detokenizer.forget(slot, generation)
        _end(*last_words)
        self._detokenizer.ack_table.close_answer(slot, generation)


def _end(*last_words: Callable[[], None]) -> None:
    """Say the first of them that the reply takes. One that breaks (shared memory is full) hurts nobody else."""
    for say in last_words:
        try:
            say()
            return
        except Exception:
            log.exception("an answer could not be ended")
