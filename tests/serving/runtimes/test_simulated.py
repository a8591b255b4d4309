"""The simulated runtime keeps the runtime protocol: what the other tests rest on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from contract.engine_dir import EngineInfo
from contract.errors import EngineUnavailable
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest, RuntimeOptions, SequenceDelta
from serving.runtimes.simulated import Faults, SimulatedRuntime, create, tokens
from tests.waiting import until


class Rig:
    def __init__(self, engine: EngineInfo, fault: str, max_streams: int) -> None:
        self.deltas: list[SequenceDelta] = []
        self.deaths: list[str] = []
        self.engine = engine
        self.runtime = create(
            engine, RuntimeOptions(max_streams, step_ms=1, fault=fault), self.deltas.extend, self.deaths.append
        )

    def of(self, stream: int) -> list[SequenceDelta]:
        return [delta for delta in list(self.deltas) if delta.sequence_id == stream]

    def ended(self, stream: int) -> bool:
        return any(delta.finish_reason for delta in self.of(stream))

    def submit(self, stream: int, **sampling: object) -> None:
        settings = {"max_tokens": 10, **sampling}
        self.runtime.submit(EngineRequest(stream, [1, 2, 3], Sampling(**settings)))


@pytest.fixture
def start(engine: EngineInfo) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(fault: str = "", max_streams: int = 8) -> Rig:
        rigs.append(Rig(engine, fault, max_streams))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.runtime.close()


def test_tokens_depend_on_prompt_and_seed_alone(start: Callable[..., Rig]) -> None:
    rig = start()
    for stream, seed in ((1, 5), (2, 5), (3, 6)):
        rig.submit(stream, seed=seed)
    until(lambda: all(map(rig.ended, (1, 2, 3))))
    made = {stream: [i for delta in rig.of(stream) for i in delta.token_ids] for stream in (1, 2, 3)}
    assert made[1] == made[2] == tokens([1, 2, 3], 5, 10) != made[3]
    assert [delta.finish_reason for delta in rig.of(1)] == [None] * 9 + ["length"]
    assert sum(delta.counted for delta in rig.of(1)) == 10


def test_a_stop_token_is_counted_and_never_shown(start: Callable[..., Rig]) -> None:
    rig = start()
    expected = tokens([1, 2, 3], 0, 10)
    rig.submit(1, stop_token_ids=(expected[4],))
    rig.submit(2, stop_token_ids=(expected[4],), min_tokens=5)
    until(lambda: rig.ended(1) and rig.ended(2))
    assert [i for delta in rig.of(1) for i in delta.token_ids] == expected[:4]
    assert sum(delta.counted for delta in rig.of(1)) == 5 and rig.of(1)[-1].finish_reason == "stop"
    assert rig.of(1)[-1].end == (expected[4], None, ()) and rig.of(2)[-1].end is None
    assert rig.of(2)[-1].finish_reason == "length"


def test_aborts_free_running_and_waiting_streams(start: Callable[..., Rig]) -> None:
    rig = start(max_streams=1)
    rig.submit(1, max_tokens=100_000)
    rig.submit(2, max_tokens=100_000)
    until(lambda: rig.of(1))
    stats = rig.runtime.stats()
    assert (stats.running, stats.waiting) == (1, 1) and stats.kv_blocks_used > 0
    for stream in (2, 1, 99):
        rig.runtime.abort(stream)
    until(lambda: rig.ended(1) and rig.ended(2))
    until(lambda: rig.runtime.stats().kv_blocks_used == 0)
    assert rig.of(1)[-1].finish_reason == rig.of(2)[-1].finish_reason == "cancelled" and not rig.of(99)


def test_every_stream_ends_exactly_once_under_aborts_from_another_thread(start: Callable[..., Rig]) -> None:
    rig = start()

    def abort_all() -> None:
        for stream in range(300):
            rig.runtime.abort(stream)

    thread = threading.Thread(target=abort_all)
    for stream in range(300):
        rig.submit(stream, max_tokens=3)
        if stream == 150:
            thread.start()
    thread.join()
    until(lambda: all(map(rig.ended, range(300))))
    assert sum(1 for delta in rig.deltas if delta.finish_reason) == 300 and not rig.deaths
    until(lambda: rig.runtime.stats().kv_blocks_used == 0)


def test_death_is_told_once_and_nothing_follows(start: Callable[..., Rig]) -> None:
    rig = start("die@5")
    rig.submit(1, max_tokens=100)
    until(lambda: rig.deaths)
    count = len(rig.deltas)
    assert rig.deaths == ["the simulated engine died at step 5"] and count == 4
    with pytest.raises(EngineUnavailable):
        rig.submit(2)
    rig.runtime.close()
    assert len(rig.deltas) == count and len(rig.deaths) == 1


def test_an_error_in_the_loop_is_a_death_not_a_silence(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimulatedRuntime, "_one_step", lambda self: 1 / 0)
    rig = start()
    rig.submit(1)
    until(lambda: rig.deaths)
    assert "ZeroDivisionError" in rig.deaths[0]


def test_faults_parse() -> None:
    assert Faults.parse("die@3,stall@4:0.5,eos@2") == Faults(die=3, eos=2, stall=4, stall_seconds=0.5)
    assert Faults.parse("") == Faults()


def test_a_resumed_stream_goes_on_where_it_was(start: Callable[..., Rig]) -> None:
    rig, whole = start(), tokens([1, 2, 3], 5, 10)
    rig.runtime.submit(EngineRequest(1, [1, 2, 3], Sampling(10, seed=5), resume_ids=whole[:7]))
    until(lambda: rig.ended(1))
    assert [i for delta in rig.of(1) for i in delta.token_ids] == whole[7:]
    assert sum(delta.counted for delta in rig.of(1)) == 3
