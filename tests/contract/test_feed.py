"""The feed: frames arrive whole and in order, however they are cut; a writer never waits, a reader sees no end."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contract import chunks, feed
from contract.chunks import IntArray


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[feed.FeedReader]:
    reader = feed.FeedReader(tmp_path, 0)
    yield reader
    reader.close()


def words(number: int, size: int = 3) -> IntArray:
    return chunks.pack(number, 1, 2, 0, 5, size, 0, 0, list(range(size)))


def test_frames_of_every_kind_arrive_in_order(reader: feed.FeedReader, tmp_path: Path) -> None:
    writer = feed.FeedWriter(tmp_path, 0)
    for frame in (feed.chunk(words(4)), feed.error(4, 1, "[overloaded] müde"), feed.end(5, 2)):
        writer.push(frame)
    writer.flush()
    (one, first), (two, second), (three, third) = reader.frames()
    assert (one, two, three) == (feed.CHUNK, feed.ERROR, feed.END)
    assert first.tolist() == words(4).tolist() and next(chunks.unpack(first)).ids == [0, 1, 2]
    assert second[:2].tolist() == [4, 1] and feed.error_text(second) == "[overloaded] müde"
    assert third.tolist() == [5, 2]


def test_a_frame_that_is_cut_anywhere_is_whole_again(reader: feed.FeedReader, tmp_path: Path) -> None:
    data = feed.chunk(words(1)) + feed.error(1, 2, "abcde") + feed.chunk(words(2))
    expected = [feed.CHUNK, feed.ERROR, feed.CHUNK]
    fd = os.open(feed.path(tmp_path, 0), os.O_WRONLY)
    for cut in range(1, len(data)):
        seen: list[int] = []
        for part in (data[:cut], data[cut:]):
            os.write(fd, part)
            seen += [kind for kind, _ in reader.frames()]
        assert seen == expected, f"cut after byte {cut}"
    os.close(fd)


def test_a_reader_that_does_not_read_keeps_nobody_waiting(reader: feed.FeedReader, tmp_path: Path) -> None:
    writer = feed.FeedWriter(tmp_path, 0)
    count = 2 * feed.CAPACITY // len(feed.chunk(words(0, 1000)))
    for number in range(count):
        writer.push(feed.chunk(words(number, 1000)))
        writer.flush()  # returns although the FIFO is full
    got: list[int] = []

    def read() -> None:
        while len(got) < count:
            got.extend(int(frame[0]) for _, frame in reader.frames())

    thread = threading.Thread(target=read)
    thread.start()
    while thread.is_alive():
        writer.flush()
    assert got == list(range(count))


def test_a_writer_says_when_nobody_reads(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        feed.FeedWriter(tmp_path, 7)
    reader = feed.FeedReader(tmp_path, 7)
    writer = feed.FeedWriter(tmp_path, 7)
    reader.close()
    writer.push(feed.end(0, 1))
    with pytest.raises(OSError):
        writer.flush()


def test_only_its_user_may_write_to_it(reader: feed.FeedReader, tmp_path: Path) -> None:
    assert feed.path(tmp_path, 0).stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [feed.path(tmp_path, 0)]


def test_words_keep_their_bits(reader: feed.FeedReader, tmp_path: Path) -> None:
    writer = feed.FeedWriter(tmp_path, 0)
    odd = np.array([0, 1, -1, 2**31 - 1, -(2**31)], dtype=np.int32)
    writer.push(feed.chunk(odd))
    writer.flush()
    ((_, got),) = reader.frames()
    assert got.tolist() == odd.tolist()


def test_a_few_bytes_cost_a_few_bytes(tmp_path: Path) -> None:
    """A buffer of the FIFO's size for each read left holes that grew by 100 bytes per chunk."""
    reader = feed.FeedReader(tmp_path, 0)
    writer = feed.FeedWriter(tmp_path, 0)
    writer.push(feed.end(1, 2))
    writer.flush()
    tracemalloc.start()
    try:
        assert len(list(reader.frames())) == 1
        assert tracemalloc.get_traced_memory()[1] < feed.CAPACITY / 16
    finally:
        tracemalloc.stop()
    writer.close()
    reader.close()


def test_a_user_whom_linux_allows_no_large_pipe_has_a_feed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.fcntl

    def limited(fd: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ and argument > 4096:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", limited)
    reader = feed.FeedReader(tmp_path, 0)
    writer = feed.FeedWriter(tmp_path, 0)
    for number in range(3):
        writer.push(feed.chunk(words(number, 2000)))
    got: list[int] = []
    while len(got) < 3:
        writer.flush()
        got += [int(frame[0]) for _, frame in reader.frames()]
    assert got == [0, 1, 2]
    writer.close()
    reader.close()
