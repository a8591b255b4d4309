"""How long a broken answer waits for its Triton, by what the launcher says."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from serving.gateway.core import restart


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        ([False, False, True], True),
        ([True, True, False, True], True),  # the launcher has not noticed yet
        ([None], False),  # nobody starts it again
        ([False, None], False),
        ([True], False),  # it never was gone: this answer alone broke off
        ([False], False),  # and stays away
    ],
)
async def test_what_ends_the_wait(seen: Sequence[bool | None], found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(restart, "NOTICE_SECONDS", 0.2 if seen == [True] else 60.0)
    looks = itertools.chain(seen, itertools.repeat(seen[-1]))
    turns = itertools.count()

    async def is_back() -> bool | None:
        return next(looks)

    def goes_on() -> bool:
        return seen != [False] or next(turns) < 100

    assert await restart.restarted("a", is_back, goes_on) is found
