"""The engine is emptied before Triton is told to stop."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from contract.ack_table import END, FILE_NAME, REFUSE, AckTable
from serving.launch import drain as module
from serving.launch.drain import drain
from tests.waiting import until


def yes() -> bool:
    return True


def no() -> bool:
    return False


@pytest.fixture
def table(tmp_path: Path) -> AckTable:
    return AckTable.create(tmp_path / FILE_NAME, 8)


def test_new_requests_are_refused_and_open_streams_may_end(table: AckTable, tmp_path: Path) -> None:
    table.open_sequences = 2
    thread = threading.Thread(target=drain, args=(tmp_path, time.monotonic() + 30, yes, yes))
    thread.start()
    while table.closing != REFUSE:
        time.sleep(0.01)
    time.sleep(0.2)
    assert table.closing == REFUSE and thread.is_alive()
    table.open_sequences = 0
    thread.join(10)
    assert not thread.is_alive() and table.closing == END


def test_streams_that_do_not_end_get_their_time_and_no_more(
    table: AckTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.1)
    table.open_sequences = 2
    drain(tmp_path, time.monotonic() + 0.1, yes, yes)
    assert table.closing == END


def test_after_a_second_signal_the_engine_still_ends_its_streams(table: AckTable, tmp_path: Path) -> None:
    table.open_sequences = 2
    thread = threading.Thread(target=drain, args=(tmp_path, time.monotonic() + 60, no, yes))
    thread.start()
    until(lambda: table.closing == END)
    assert thread.is_alive(), "they get a last message"
    table.open_sequences = 0
    thread.join(10)
    assert not thread.is_alive()


def test_a_dead_engine_is_not_waited_for(table: AckTable, tmp_path: Path) -> None:
    table.open_sequences = 2
    began = time.monotonic()
    drain(tmp_path, began + 60, yes, no)
    assert time.monotonic() - began < module.FLUSH_SECONDS and table.closing == END


def test_without_a_table_there_is_nothing_to_drain(tmp_path: Path) -> None:
    drain(tmp_path, time.monotonic() + 60, yes, yes)
