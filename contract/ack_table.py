"""The ack table: a small shared-memory table through which the detokenizer answers the engine.

The ensemble gives the detokenizer no way back to the engine, so both map the same file in the private run directory.
One record of four 64-bit words per slot; a running sequence owns one slot:

    acked   generation << 32 | seq    the last chunk of this sequence whose text the detokenizer has sent
    stop    generation << 32          a stop string was found: the engine may abort the sequence
    reader  generation << 32 | n      the feed whose reader answers this sequence, or ``CLOSED``
    probe   generation << 32 | n      the last probe that came through Triton with the client still there, or ``GONE``

Only the detokenizer writes these records, and each word in a single store, so no lock is needed. A word carries the
generation it was written for. The engine gives every sequence a new generation, so a late write for a slot's previous
owner is ignored, and is not even made once the next owner has written.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

MAGIC = 0x71776E5F61636B73  # "qwn_acks"
FILE_NAME = "ack_table"  # in the run directory
BEAT_SECONDS = 0.05  # between two heartbeats of a detokenizer process
MOST_READERS = 56
BEATS = 8  # the first of their heartbeats; before them magic, slots, open sequences, closing, stalled
HEADER_WORDS = BEATS + MOST_READERS
WORDS_PER_SLOT = 4
ACKED, STOP, READER, PROBE = range(WORDS_PER_SLOT)
REFUSE, END = 1, 2  # of ``AckTable.closing``
CLOSED = 2**32 - 1  # for a reader: the answer has ended
GONE = 2**32 - 1  # for a probe: the client is gone
MAX_GENERATION = 2**31 - 1  # travels in INT32 tensors


class AckTable:
    """A mapped table. ``create`` on the engine's side, ``open`` on the detokenizer's."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._words = memoryview(self._map).cast("Q")
        if self._words[0] != MAGIC:
            raise ValueError(f"{path} is not an ack table")
        self.slots = self._words[1]

    @classmethod
    def create(cls, path: Path, slots: int) -> AckTable:
        """Write a fresh table under a temporary name and move it into place: a reader never sees half of one."""
        words = memoryview(bytearray(8 * (HEADER_WORDS + WORDS_PER_SLOT * slots))).cast("Q")
        words[0], words[1] = MAGIC, slots
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_bytes(words.tobytes())
        partial.replace(path)
        return cls(path)

    def ack(self, slot: int, generation: int, seq: int) -> None:
        self._write(slot, ACKED, generation, seq)

    def acked(self, slot: int, generation: int, seq: int) -> bool:
        """Whether the detokenizer has sent the text of chunk ``seq`` of this sequence."""
        return self._words[HEADER_WORDS + WORDS_PER_SLOT * slot] == generation << 32 | seq

    def stop(self, slot: int, generation: int) -> None:
        self._write(slot, STOP, generation, 0)

    def stopped(self, slot: int, generation: int) -> bool:
        return self._words[HEADER_WORDS + WORDS_PER_SLOT * slot + STOP] == generation << 32

    def read_by(self, slot: int, generation: int, reader: int) -> None:
        """The reader of feed ``reader`` answers this sequence from now on."""
        self._write(slot, READER, generation, reader)

    def reader(self, slot: int, generation: int) -> int | None:
        """Whose feed's reader answers this sequence; ``None`` before its first chunk has arrived, or ``CLOSED``."""
        owner, reader = divmod(self._words[HEADER_WORDS + WORDS_PER_SLOT * slot + READER], 1 << 32)
        return reader if owner == generation else None

    def close_answer(self, slot: int, generation: int) -> None:
        """The last response of this sequence has been sent."""
        self._write(slot, READER, generation, CLOSED)

    def owner(self, slot: int) -> int:
        """The generation of the slot's last sequence whose first chunk arrived; 0: none has yet."""
        return self._words[HEADER_WORDS + WORDS_PER_SLOT * slot + READER] >> 32

    def probe(self, slot: int, generation: int, number: int) -> None:
        self._write(slot, PROBE, generation, number)

    def probed(self, slot: int, generation: int, number: int) -> bool:
        """Whether probe ``number`` of this sequence has come through Triton."""
        return self._words[HEADER_WORDS + WORDS_PER_SLOT * slot + PROBE] == generation << 32 | number

    def _write(self, slot: int, word: int, generation: int, number: int) -> None:
        at = HEADER_WORDS + WORDS_PER_SLOT * slot + word
        owner = self._words[at] >> 32
        if not owner or (generation - owner) % MAX_GENERATION < MAX_GENERATION // 2:
            self._words[at] = generation << 32 | number

    def beat(self, reader: int) -> None:
        """Show that a detokenizer process gets CPU time: else a starved host would look like a gone client.

        Raises ``ValueError`` for a process too many."""
        if not 0 <= reader < MOST_READERS:
            raise ValueError(f"detokenizer process {reader}: there may be {MOST_READERS}")
        self._words[BEATS + reader] += 1

    @property
    def beats(self) -> list[int]:
        """Of each process; 0: there is none, or it has not begun."""
        return self._words[BEATS:HEADER_WORDS].tolist()

    @property
    def open_sequences(self) -> int:
        """Open sequences, as last written by the engine; the launcher waits for 0 when it drains."""
        return self._words[2]

    @open_sequences.setter
    def open_sequences(self, count: int) -> None:
        self._words[2] = count

    @property
    def closing(self) -> int:
        """What the launcher asks for: 0 to serve, ``REFUSE`` to admit nothing new, ``END`` to end open requests too."""
        return self._words[3]

    @closing.setter
    def closing(self, phase: int) -> None:
        self._words[3] = phase

    @property
    def stalled(self) -> int:
        """Seconds for which the engine has made no step although it has work; 0 while it makes them."""
        return self._words[4]

    @stalled.setter
    def stalled(self, seconds: int) -> None:
        self._words[4] = seconds

    def close(self) -> None:
        self._words.release()
        self._map.close()
