"""The board between the two processes: words count only for the generation they were written for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.ack_table import MAX_GENERATION, Board

SLOT = st.integers(0, 63)
GENERATION = st.integers(1, MAX_GENERATION)
SEQ = st.integers(1, 2**31 - 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(slot=SLOT, generation=GENERATION, seq=SEQ, other=GENERATION)
def test_a_word_counts_for_its_own_generation_only(
    board: Board, slot: int, generation: int, seq: int, other: int
) -> None:
    board.ack(slot, generation, seq)
    board.stop(slot, generation)
    assert board.acked(slot, generation, seq) and not board.acked(slot, generation, seq + 1)
    assert board.acked(slot, other, seq) == board.stopped(slot, other) == (other == generation)


def test_slots_do_not_touch_each_other(board: Board) -> None:
    for slot in range(board.slots):
        board.ack(slot, slot + 1, 7)
        board.stop(slot, slot + 1)
    assert all(board.acked(slot, slot + 1, 7) and board.stopped(slot, slot + 1) for slot in range(board.slots))
    assert board.beats == 0


def test_another_process_sees_what_was_written(tmp_path: Path) -> None:
    mine = Board.create(tmp_path / "board", 4)
    code = (
        "import sys; from pathlib import Path; from contract.ack_table import Board\n"
        "b = Board(Path(sys.argv[1])); b.ack(2, 11, 5); b.stop(3, 12); b.beat(); b.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "board")], check=True)
    assert mine.acked(2, 11, 5) and mine.stopped(3, 12) and mine.beats == 1
    mine.close()


def test_a_new_board_replaces_the_old_file_and_starts_empty(tmp_path: Path) -> None:
    old = Board.create(tmp_path / "board", 4)
    old.ack(0, 1, 1)
    new = Board.create(tmp_path / "board", 8)
    assert new.slots == 8 and not new.acked(0, 1, 1)
    assert [file.name for file in tmp_path.iterdir()] == ["board"]
    old.close()
    new.close()


def test_a_file_that_is_no_board_is_refused(tmp_path: Path) -> None:
    (tmp_path / "board").write_bytes(b"\0" * 4096)
    with pytest.raises(ValueError, match="not a board"):
        Board(tmp_path / "board")
