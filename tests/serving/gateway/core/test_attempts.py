"""Which attempt at a broken answer comes next, and what ends them. Restarts: ``test_restart``."""

from __future__ import annotations

import pytest

from client.errors import ClientError, EngineUnavailable, InvalidRequest, StreamCut, Unsupported
from serving.gateway.core import restart
from serving.gateway.core.attempts import Attempts
from serving.gateway.core.restart import RestartWait


class Rig:
    def __init__(self, servers: int, *, restarts: bool = False) -> None:
        self.stopped = False
        seen = iter([False, True] * 100)

        async def is_back() -> bool | None:
            return next(seen) if restarts else None

        wait = RestartWait("a", is_back, 60.0)
        self.attempts = Attempts("a", servers, wait, lambda: self.stopped)

    async def again(self, ids: list[int] | None, error: ClientError | None = None, several: bool = False) -> bool:
        return await self.attempts.again(error or StreamCut("cut"), ids, has_several=several)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "LOOK_SECONDS", 0.0)


async def test_each_other_server_gets_one_attempt_and_a_token_begins_the_count_anew() -> None:
    rig = Rig(servers=3)
    assert rig.attempts.request_id == "a"
    assert [await rig.again([]), await rig.again([]), rig.attempts.request_id] == [True, True, "a+2"]
    assert [await rig.again([1]), await rig.again([1]), await rig.again([1])] == [True, True, False]
    assert rig.attempts.ids == [1]


async def test_a_lone_server_is_waited_for_where_the_client_has_tokens_and_not_for_ever() -> None:
    assert not await Rig(1, restarts=True).again([])
    rig = Rig(1, restarts=True)
    assert [await rig.again([1] * tokens) for tokens in range(1, 5)] == [True, True, True, False]


async def test_what_cannot_go_on_ends_with_its_error() -> None:
    assert not await Rig(2).again(None), "an answer that has text but no ids"
    assert not await Rig(2).again([], InvalidRequest("top_p", "too large")), "another server would say the same"
    rig = Rig(2)
    rig.stopped = True
    assert not await rig.again([])


async def test_the_error_that_broke_the_answer_says_why_it_is_not_resumed() -> None:
    with pytest.raises(StreamCut, match=r"^cut; the answer cannot be resumed: only answers with n = 1 do$"):
        await Rig(2).again(None, several=True)
    rig = Rig(2)
    assert await rig.again([1], EngineUnavailable("engine: died"))
    with pytest.raises(EngineUnavailable, match=r"^engine: died; the answer cannot be resumed: resume_ids: "):
        await rig.again([1], Unsupported("resume_ids", "the loaded engine cannot honour it"))
