"""Which prompts the transformers reference answers side by side."""

from __future__ import annotations

import pytest

from build_engine.verify.torch_reference import BATCH_TOKENS, batches


def test_like_goes_with_like_and_no_batch_grows_beyond_the_memory_set_aside() -> None:
    lengths = [100, BATCH_TOKENS // 2, 120, BATCH_TOKENS // 2 - 1, 110, BATCH_TOKENS // 2]
    assert batches(lengths) == [[1, 5], [3, 2], [4, 0]]
    for batch in batches(lengths):
        assert len(batch) * max(lengths[i] for i in batch) <= BATCH_TOKENS


@pytest.mark.parametrize("lengths", [[], [3 * BATCH_TOKENS], [7] * 50])
def test_every_prompt_is_in_one_batch(lengths: list[int]) -> None:
    found = batches(lengths)
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    assert all(found)
