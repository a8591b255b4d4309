"""A prefix cache without keys and values: what was read before is known, as far as whole blocks go."""

from __future__ import annotations

from serving.runtimes.simulated_prefix import PrefixCache


def test_whole_blocks_of_a_known_beginning_count() -> None:
    cache = PrefixCache(blocks=100, block=4)
    assert cache.read(range(10), "") == 0
    assert cache.read([*range(10), 77, 78], "") == 8
    assert cache.read([*range(10), 77, 78, 1], "") == 12
    assert cache.read([0, 1, 2, 3, 9, 9, 9, 9], "") == 4
    assert cache.read([9, 9, 9, 9], "") == 0, "the same block behind another beginning is another one"
    assert cache.read(range(8), "") == 7, "the last token is computed"
    assert cache.read(range(8), "mine") == 0


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = PrefixCache(blocks=2, block=1)
    for token in (1, 2, 1, 3):
        cache.read([token, 0], "")  # two blocks each: the second of another prompt pushes it out
    assert cache.read([3, 5], "") == 1 and cache.read([1, 5], "") == 0
