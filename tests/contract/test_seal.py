"""Steps accept only what the step before made, in this run."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import InvalidRequest
from contract.seal import FILE_NAME, Seal

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=20)
SEAL, OTHER = Seal(b"a" * 32), Seal(b"b" * 32)


@given(ids=IDS, job=st.binary(max_size=60))
def test_a_job_opens_for_its_own_ids_in_its_own_run(ids: list[int], job: bytes) -> None:
    sealed = SEAL.job(ids, job)
    assert SEAL.opened_job(ids, sealed) == job
    for seal, other_ids, data in ((OTHER, ids, sealed), (SEAL, [*ids, 1], sealed), (SEAL, ids, sealed + b"x")):
        with pytest.raises(InvalidRequest, match="send it to qwen"):
            seal.opened_job(other_ids, data)


@given(ids=IDS)
def test_a_chunk_opens_unchanged(ids: list[int]) -> None:
    words = np.array(ids, dtype=np.int32)
    sealed = SEAL.chunk(words)
    assert SEAL.opened_chunk(sealed).tolist() == ids
    with pytest.raises(InvalidRequest, match="inner step"):
        OTHER.opened_chunk(sealed)
    for at in range(len(sealed)):
        changed = sealed.copy()
        changed[at] ^= 1
        with pytest.raises(InvalidRequest, match="inner step"):
            SEAL.opened_chunk(changed)


@pytest.mark.parametrize("words", [[], [1], [1, 2], [1, 2, 3]])
def test_words_without_a_signature_are_refused(words: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="chunk: the model 'detokenizer'"):
        SEAL.opened_chunk(np.array(words, dtype=np.int32))


def test_steps_that_start_together_agree_on_a_private_key(tmp_path: Path) -> None:
    seals: list[Seal] = []
    threads = [threading.Thread(target=lambda: seals.append(Seal.of_run(tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({seal.job([1], b"x") for seal in seals}) == 1
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0
