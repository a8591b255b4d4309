"""bench-serving's arithmetic: who gets which cores."""

from __future__ import annotations

import pytest

from loadtest.bench.serving import split
from loadtest.errors import LoadtestError


def test_the_server_has_its_cores_to_itself():
    assert split(4, frozenset(range(16))) == (set(range(4)), set(range(4, 16)))
    assert split(0, frozenset({2, 5})) == ({2, 5}, {2, 5})
    with pytest.raises(LoadtestError, match="leaves none of this machine's 2"):
        split(2, frozenset({0, 1}))
