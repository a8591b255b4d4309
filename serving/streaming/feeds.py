"""Feeds: how the engine step sends every chunk after a sequence's first one to the detokenizer's processes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from contract import feed
from contract.ack_table import CLOSED, AckTable
from contract.chunks import IntArray
from contract.errors import ServingError, to_wire
from serving.streaming.clock import Clock
from serving.streaming.sequence import ActiveSequence

log = logging.getLogger(__name__)

PATIENCE_BEATS = 100  # 5 s of the detokenizer's own time for the end of an answer: longer than any turn it makes


class Feeds:
    """Owned by the dispatcher's thread. Nothing here waits; a reader that is gone is noticed by its missing acks."""

    def __init__(self, ack_table: AckTable, clock: Clock, run_dir: Path) -> None:
        self._ack_table, self._clock, self._run_dir = ack_table, clock, run_dir
        self._has_given_up = False
        self._writers: dict[int, feed.FeedWriter] = {}
        self._early: list[tuple[ActiveSequence, bytes, Sequence[ActiveSequence]]] = []  # endings that have to wait
        self._ending: list[tuple[ActiveSequence, int]] = []  # and the time on the clock when the last word left

    @property
    def ending(self) -> int:
        """Answers whose last word has left but may not have been sent yet."""
        self._ending = [(s, beat) for s, beat in self._ending if self._is_ending(s, beat)]
        return len(self._ending) + len(self._early)

    def reaches(self, sequence: ActiveSequence) -> bool:
        """The sequence's answer is open, and the process that it is open in lives."""
        return not self._has_given_up and self._ack_table.reader(sequence.slot, sequence.generation) is not None

    def give_up(self) -> None:
        """The detokenizer is gone."""
        self._has_given_up = True

    def send(self, sequence: ActiveSequence, words: IntArray) -> None:
        """The next chunk of a sequence whose earlier ones are acknowledged."""
        self._push(sequence, feed.chunk(words), last=bool(sequence.finish))

    def end(
        self, sequence: ActiveSequence, error: ServingError | None = None, after: Sequence[ActiveSequence] = ()
    ) -> None:
        """End the answer of a sequence that ``is_open``: with an error, or because nobody reads it.

        The ending waits for its first chunk, which may still be on its way, and for the endings of ``after``."""
        slot, generation = sequence.slot, sequence.generation
        frame = feed.error(slot, generation, to_wire(error)) if error else feed.end(slot, generation)
        if self._is_early(sequence, frame, after):
            self._early.append((sequence, frame, after))

    def flush(self) -> None:
        """Write what was pushed since the last call: one system call for all chunks of an engine step."""
        if self._early:
            self._early = [waiting for waiting in self._early if self._is_early(*waiting)]
        for number, writer in list(self._writers.items()):
            try:
                writer.flush()
            except OSError as error:
                log.warning("feed %d: %s", number, error)
                writer.close()
                del self._writers[number]

    def _is_early(self, sequence: ActiveSequence, frame: bytes, after: Sequence[ActiveSequence]) -> bool:
        """Push the ending if it may leave. What takes too long is not waited for: a first chunk may have been lost."""
        patient = self._clock.now - sequence.sent_beat < PATIENCE_BEATS
        if patient and after and self.ending:
            unended = [s for s, *_ in self._early] + [s for s, _ in self._ending]
            if any(each in unended for each in after):
                return True
        return not self._push(sequence, frame, last=True) and patient

    def _is_ending(self, sequence: ActiveSequence, beat: int) -> bool:
        reader = self._ack_table.reader(sequence.slot, sequence.generation)
        return reader not in (None, CLOSED) and self._clock.now - beat < PATIENCE_BEATS

    def _push(self, sequence: ActiveSequence, frame: bytes, *, last: bool) -> bool:
        """False while the answer is not open."""
        number = self._ack_table.reader(sequence.slot, sequence.generation)
        if number is None:
            return False
        if number == CLOSED:  # the detokenizer has given it up
            return True
        if number not in self._writers:
            try:
                self._writers[number] = feed.FeedWriter(self._run_dir, number)
            except OSError as error:
                log.warning("feed %d: %s", number, error)
                return True
        self._writers[number].push(frame)
        if last:
            self._ending.append((sequence, self._clock.now))
        return True
