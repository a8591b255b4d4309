"""An engine is warm before it is ready: every kind of sampling it can do has run, and nobody has seen a delta of it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from contract.errors import EngineUnavailable, InvalidRequest
from serving.runtimes.base import CAPABILITIES, EngineRequest, RuntimeLimits, RuntimeStats, SequenceDelta
from serving.runtimes.warmup import KINDS, MANY_ROWS, TOKENS, WIDE, WarmUp


class Engine:
    """Answers each request from another thread, as runtimes do."""

    def __init__(self, capabilities: frozenset[str] = CAPABILITIES, refuse: bool = False, error: str = "") -> None:
        self.limits = RuntimeLimits(max_seq_len=4096, max_input_len=4000, vocab_size=1000, max_streams=100)
        self.capabilities = capabilities
        self.seen: list[EngineRequest] = []
        self.listener: WarmUp | None = None
        self.refuse, self.error, self.dies = refuse, error, False

    def submit(self, request: EngineRequest) -> None:
        if self.refuse:
            raise InvalidRequest("top_k", "no")
        self.seen.append(request)
        threading.Thread(target=self._answer, args=(request.sequence_id,)).start()

    def _answer(self, stream: int) -> None:
        assert self.listener
        if self.dies:
            self.listener.on_death("out of memory")
            return
        self.listener.on_step([SequenceDelta(stream, (1,), 1)])
        self.listener.on_step([SequenceDelta(stream, (2,), 1, "error" if self.error else "length", error=self.error)])

    def abort(self, sequence_id: int) -> None: ...
    def stats(self) -> RuntimeStats:
        return RuntimeStats()

    def close(self) -> None: ...


def warmed(engine: Engine, prompt_tokens: int | None = 2048) -> list[Any]:
    heard: list[Any] = []
    engine.listener = WarmUp(heard.append, heard.append)
    engine.listener.run(engine, prompt_tokens)
    return heard


def test_every_kind_the_engine_can_do_runs_and_nobody_hears_of_it() -> None:
    engine = Engine()
    assert warmed(engine) == []
    many = [request.sampling for request in engine.seen if request.sampling.top_k == 100]
    assert {request.sampling for request in engine.seen} - {*many} == {sampling for _, sampling in KINDS}
    assert [sampling.top_p for sampling in many] == [1.0] * MANY_ROWS + [0.9] * MANY_ROWS
    assert all(1 <= request.sampling.max_tokens <= TOKENS for request in engine.seen)


def test_a_prompt_longer_than_a_step_runs_twice_and_a_wide_batch_once() -> None:
    engine = Engine()
    warmed(engine, 2048)
    long = [request for request in engine.seen if len(request.input_ids) > 2048]
    assert len(long) == 2 and long[0].input_ids == long[1].input_ids
    assert sum(len(request.input_ids) == 16 for request in engine.seen) == WIDE + 1 + 2 * MANY_ROWS


def test_what_the_engine_lacks_is_left_out() -> None:
    engine = Engine(frozenset({"seed"}))
    warmed(engine)
    assert not [r for r in engine.seen if r.sampling.guide or r.sampling.logprobs or r.sampling.repetition_penalty != 1]
    assert any(request.sampling.seed for request in engine.seen)


def test_slow_prefill_gets_short_prompts_and_none_leaves_the_engine_cold() -> None:
    engine = Engine()
    warmed(engine, 16)
    assert max(len(request.input_ids) for request in engine.seen) < 64
    cold = Engine()
    warmed(cold, None)
    assert cold.seen == []


def test_deltas_pass_through_once_it_is_over() -> None:
    engine = Engine()
    heard = warmed(engine)
    assert engine.listener
    engine.listener.on_step([SequenceDelta(1, (3,), 1)])
    assert heard == [[SequenceDelta(1, (3,), 1)]]


@pytest.mark.parametrize("engine", [Engine(refuse=True), Engine(error="CUDA error")])
def test_an_engine_that_fails_while_warming_up_is_not_ready(engine: Engine) -> None:
    with pytest.raises(EngineUnavailable, match="warm"):
        warmed(engine)


def test_an_engine_that_dies_while_warming_up_is_not_ready() -> None:
    engine = Engine()
    engine.dies = True
    with pytest.raises(EngineUnavailable, match="out of memory"):
        warmed(engine)
