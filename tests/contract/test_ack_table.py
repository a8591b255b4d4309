"""The ack table between the two processes: words count only for the generation they were written for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.ack_table import MAX_GENERATION, AckTable

SLOT = st.integers(0, 63)
GENERATION = st.integers(1, MAX_GENERATION)
SEQ = st.integers(1, 2**31 - 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(slot=SLOT, generation=GENERATION, seq=SEQ, other=GENERATION)
def test_a_word_counts_for_its_own_generation_only(
    tmp_path: Path, slot: int, generation: int, seq: int, other: int
) -> None:
    ack_table = AckTable.create(tmp_path / "fresh", 64)
    ack_table.ack(slot, generation, seq)
    ack_table.stop(slot, generation)
    assert ack_table.acked(slot, generation, seq) and not ack_table.acked(slot, generation, seq + 1)
    assert ack_table.acked(slot, other, seq) == ack_table.stopped(slot, other) == (other == generation)


def test_slots_do_not_touch_each_other(ack_table: AckTable) -> None:
    for slot in range(ack_table.slots):
        ack_table.ack(slot, slot + 1, 7)
        ack_table.stop(slot, slot + 1)
    assert all(
        ack_table.acked(slot, slot + 1, 7) and ack_table.stopped(slot, slot + 1) for slot in range(ack_table.slots)
    )
    assert not any(ack_table.beats)


@pytest.mark.parametrize("last", [7, MAX_GENERATION])
def test_a_late_write_for_a_slots_last_owner_takes_nothing_from_the_next(ack_table: AckTable, last: int) -> None:
    """Two detokenizer processes write: the last owner's, which was slow, and the next one's."""
    owner = last % MAX_GENERATION + 1
    ack_table.read_by(0, last, 1)
    ack_table.read_by(0, owner, 2)
    ack_table.ack(0, owner, 1)
    ack_table.probe(0, owner, 1)
    ack_table.stop(0, owner)
    ack_table.ack(0, last, 9)
    ack_table.probe(0, last, 9)
    ack_table.stop(0, last)
    ack_table.close_answer(0, last)
    assert ack_table.reader(0, owner) == 2 and ack_table.acked(0, owner, 1)
    assert ack_table.probed(0, owner, 1) and ack_table.stopped(0, owner)


def test_a_process_too_many_is_refused(ack_table: AckTable) -> None:
    with pytest.raises(ValueError, match="detokenizer process 56: there may be 56"):
        ack_table.beat(56)


def test_another_process_sees_what_was_written(tmp_path: Path) -> None:
    mine = AckTable.create(tmp_path / "ack_table", 4)
    code = (
        "import sys; from pathlib import Path; from contract.ack_table import AckTable\n"
        "b = AckTable(Path(sys.argv[1])); b.ack(2, 11, 5); b.stop(3, 12); b.beat(3); b.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "ack_table")], check=True)
    assert mine.acked(2, 11, 5) and mine.stopped(3, 12) and mine.beats[:5] == [0, 0, 0, 1, 0]
    mine.close()


def test_a_new_board_replaces_the_old_file_and_starts_empty(tmp_path: Path) -> None:
    old = AckTable.create(tmp_path / "ack_table", 4)
    old.ack(0, 1, 1)
    new = AckTable.create(tmp_path / "ack_table", 8)
    assert new.slots == 8 and not new.acked(0, 1, 1)
    assert [file.name for file in tmp_path.iterdir()] == ["ack_table"]
    old.close()
    new.close()


def test_a_file_that_is_no_board_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ack_table").write_bytes(b"\0" * 4096)
    with pytest.raises(ValueError, match="not an ack table"):
        AckTable(tmp_path / "ack_table")
