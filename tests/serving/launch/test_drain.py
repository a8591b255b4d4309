"""The engine is emptied before Triton is told to stop."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pytest

from contract.ack_table import END, FILE_NAME, REFUSE, AckTable
from serving.launch import drain as module
from serving.launch.drain import OpenStreams, await_gateway, drain
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
    assert drain(tmp_path, time.monotonic() + 0.1, yes, yes) == 2
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
    assert drain(tmp_path, time.monotonic() + 60, yes, yes) == 0


def test_who_waits_for_a_stop_sees_how_many_streams_are_open(
    table: AckTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.open_sequences = 2
    streams = OpenStreams(tmp_path, seconds=0.0)
    streams.look()
    table.open_sequences = 1
    streams.look()
    table.open_sequences = 0
    streams.look()
    streams.close(0)
    assert capsys.readouterr().out.splitlines() == [
        "still open: 2 streams", "still open: 1 stream", "no stream is open any more",
    ]  # fmt: skip
    OpenStreams(tmp_path, seconds=0.0).close(3)
    assert capsys.readouterr().out == "ended early: 3 streams\n"


def test_streams_that_went_with_the_gateway_ended_early_too(
    table: AckTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three readers and a second Ctrl-C said "ended early: 1 stream": the engine had freed the two others by then."""
    table.open_sequences = 4
    streams = OpenStreams(tmp_path, seconds=60.0)
    table.open_sequences = 3
    streams.look(patient=False)
    table.open_sequences = 1
    streams.look(patient=False)
    streams.close(1)
    assert capsys.readouterr().out == "ended early: 3 streams\n"


def test_a_server_without_streams_says_nothing_of_them(
    table: AckTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for directory in (tmp_path, tmp_path / "no table"):
        streams = OpenStreams(directory, seconds=0.0)
        streams.look()
        streams.close(0)
    table.open_sequences = 1
    streams = OpenStreams(tmp_path, seconds=60.0)
    streams.look()
    assert capsys.readouterr().out == "", "nor at once"


@pytest.mark.parametrize(("signals", "told"), [(1, ""), (2, "again\n"), (3, "")])
def test_a_gateway_that_does_not_end_is_ended(signals: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second signal it is told once more, so that its streams get a last event."""
    monkeypatch.setattr(module, "LAST_EVENT_SECONDS", 60.0)  # a busy machine's shell took longer than 2
    script = "trap 'echo again; exit' INT; echo ready; while true; do sleep 0.05; done"
    command = ["env", "--default-signal=INT", "sh", "-c", script]  # tests in the background (`&`) inherit it ignored
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    await_gateway(process, time.monotonic() + 0.1, lambda: signals < 2, lambda: signals)
    assert process.wait(10) is not None and process.stdout.read().decode() == told
    process.stdout.close()
