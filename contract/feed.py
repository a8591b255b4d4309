"""The feed: how chunks reach the detokenizer once its answer to a sequence is open.

A sequence's first chunk goes through Triton and opens the answer; a Triton round trip for every further one would cost
more than all else that happens to a token. So each of the detokenizer's sending threads reads a FIFO in the private run
directory, and the engine step writes frames of INT32 words into it: ``[words that follow, kind, …]``.

    CHUNK   a packed chunk (contract/chunks.py)
    ERROR   slot, generation, bytes of the text, the text: the answer ends with this error (``contract.errors.to_wire``)
    END     slot, generation: the answer ends and nobody reads it
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from contract.chunks import IntArray

CHUNK, ERROR, END = range(3)
FILE_PREFIX = "feed."  # and the reader's number, in the run directory
CAPACITY = 1 << 20  # bytes that the kernel holds for a reader: what Linux allows everybody
WORD = 4


def path(run_dir: Path, reader: int) -> Path:
    return run_dir / f"{FILE_PREFIX}{reader}"


def chunk(words: IntArray) -> bytes:
    return np.array([len(words) + 1, CHUNK], dtype=np.int32).tobytes() + words.tobytes()


def error(slot: int, generation: int, text: str) -> bytes:
    data = text.encode()
    padded = data + bytes(-len(data) % WORD)
    head = [4 + len(padded) // WORD, ERROR, slot, generation, len(data)]
    return np.array(head, dtype=np.int32).tobytes() + padded


def end(slot: int, generation: int) -> bytes:
    return np.array([3, END, slot, generation], dtype=np.int32).tobytes()


def error_text(words: IntArray) -> str:
    """The text of an ERROR frame, whose words behind its kind these are."""
    return words[3:].tobytes()[: words[2]].decode()


class FeedReader:
    """The detokenizer's end. It holds the FIFO open for writing too, so that it never reads an end of file."""

    def __init__(self, run_dir: Path, number: int) -> None:
        name = path(run_dir, number)
        partial = name.with_name(f"{name.name}.{os.getpid()}")
        os.mkfifo(partial, 0o600)
        self._fd = os.open(partial, os.O_RDWR)
        with contextlib.suppress(PermissionError):  # of a user with many pipes, or a lower bound: fewer bytes do
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, CAPACITY)
        partial.rename(name)
        self._buffer = bytearray(CAPACITY)  # reused: ``os.read`` would make as large an object for every few bytes
        self._rest = b""

    def wait(self, seconds: float) -> bool:
        """Whether there is something to read, now or within ``seconds``."""
        return bool(select.select([self._fd], [], [], seconds)[0])

    def frames(self) -> Iterator[tuple[int, IntArray]]:
        """Wait for frames and yield those that are there: kind and words."""
        count = os.readv(self._fd, [self._buffer])
        data = self._rest + self._buffer[:count]
        words, at = np.frombuffer(data, dtype=np.int32, count=len(data) // WORD), 0
        while at < len(words) and at + words[at] < len(words):
            length = int(words[at])
            yield int(words[at + 1]), words[at + 2 : at + 1 + length]
            at += 1 + length
        self._rest = data[at * WORD :]

    def close(self) -> None:
        os.close(self._fd)


class FeedWriter:
    """The engine's end of one FIFO. ``push`` and ``flush`` never wait: what the reader has no room for stays here."""

    def __init__(self, run_dir: Path, number: int) -> None:
        """Raises ``OSError`` when nobody reads it."""
        self._fd = os.open(path(run_dir, number), os.O_WRONLY | os.O_NONBLOCK)
        self._waiting = bytearray()

    def push(self, frame: bytes) -> None:
        self._waiting += frame

    def flush(self) -> None:
        """Raises ``OSError`` when the reader is gone."""
        while self._waiting:
            try:
                written = os.write(self._fd, self._waiting)
            except BlockingIOError:
                return
            del self._waiting[:written]

    def close(self) -> None:
        os.close(self._fd)
