"""The vLLM adapter on a stand-in core: one on_step per message, ids normalised, every sequence ended exactly once."""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from contract.errors import EngineUnavailable, InvalidRequest, from_wire
from contract.sampling import Guide, Sampling
from serving.runtimes.base import EndToken, EngineRequest, RuntimeOptions
from serving.runtimes.vllm.runtime import VllmRuntime
from tests.serving.runtimes.vllm.cases import ERROR, LENGTH, STOP, FakeCore, Output, Outputs, Prefill, Scheduler, engine
from tests.waiting import until


@pytest.fixture
def served(tmp_path):
    core, steps, deaths = FakeCore(), queue.Queue(), queue.Queue()
    runtime = VllmRuntime(core, engine(tmp_path), RuntimeOptions(max_streams=8), steps.put, deaths.put)
    yield SimpleNamespace(core=core, runtime=runtime, step=lambda: steps.get(timeout=60), steps=steps, deaths=deaths)
    runtime.close()


def request(sequence_id, **sampling):
    return EngineRequest(sequence_id, [1, 2, 3], Sampling(max_tokens=8, **sampling))


def say(served, *outputs, stats=None):
    served.core.outputs.put(Outputs(list(outputs), stats))


def test_one_message_is_one_call_with_all_streams(served):
    for i in (1, 2):
        served.runtime.submit(request(i))
    a, b = served.core.sent
    say(served, Output(a, [5], prefill_stats=Prefill(3, 2)), Output(b, [6], prefill_stats=Prefill(3)))
    first, second = served.step()
    assert (first.sequence_id, first.token_ids, first.cached_tokens) == (1, [5], 2)
    assert (second.sequence_id, second.token_ids, second.cached_tokens) == (2, [6], 0)
    assert served.steps.empty()


def test_the_stop_token_is_counted_but_not_shown(served):
    served.runtime.submit(request(1, stop_token_ids=(9,)))
    say(served, Output(served.core.sent[0], [4, 9], STOP))
    (delta,) = served.step()
    assert (delta.token_ids, delta.counted, delta.finish_reason, delta.end) == ([4], 2, "stop", EndToken(9))


def test_a_last_token_at_the_length_limit_stays(served):
    served.runtime.submit(request(1, stop_token_ids=(9,)))
    say(served, Output(served.core.sent[0], [4, 9], LENGTH))
    (delta,) = served.step()
    assert (delta.token_ids, delta.finish_reason) == ([4, 9], "length")


def test_log_probs_are_cut_to_what_was_asked_and_shown(served):
    served.runtime.submit(request(1, logprobs=3, stop_token_ids=(9,)))
    ids = np.array([[4, 4, 8, 7], [9, 9, 3, 1]])
    values = np.array([[-0.5, -0.5, -1.0, -2.0], [-0.25, -0.25, -3.0, -4.0]])
    lists = SimpleNamespace(logprob_token_ids=ids, logprobs=values)
    say(served, Output(served.core.sent[0], [4, 9], STOP, lists))
    (delta,) = served.step()
    assert delta.logprobs == [-0.5]
    assert delta.top_logprobs == [((4, -0.5), (8, -1.0))]
    assert delta.end == EndToken(9, -0.25, ((9, -0.25), (3, -3.0)))


def test_scores_of_the_prompt_come_with_its_first_token(served):
    """The first column is the prompt's own token."""
    served.runtime.submit(request(1, prompt_logprobs=2))
    scores = SimpleNamespace(
        logprob_token_ids=np.array([[2, 7, 8], [3, 3, 9]]),
        logprobs=np.array([[-np.inf, -0.5, -1.0], [-0.25, -0.25, -2.0]]),
        selected_token_ranks=np.array([5, 1]),
    )
    say(served, Output(served.core.sent[0], [4], new_prompt_logprobs_tensors=scores))
    (delta,) = served.step()
    assert delta.prompt == ((), [-9999.0, -0.25], [5, 1], b"[[[7,-0.5]],[[3,-0.25]]]") and delta.logprobs == []


def test_output_of_an_earlier_attempt_is_read_as_prompt(served):
    served.runtime.submit(EngineRequest(1, [1, 2, 3], Sampling(8), seeded=False, resume_ids=[4, 5]))
    (asked,) = served.core.requests
    assert (asked.input_ids, asked.sampling.max_tokens) == ([1, 2, 3, 4, 5], 6)
    say(served, Output(served.core.sent[0], [6], prefill_stats=Prefill(5, 4)))
    (delta,) = served.step()
    assert (delta.token_ids, delta.counted, delta.cached_tokens) == ([6], 1, 3), "the caller's prompt has three"


def test_an_abort_ends_the_stream_once_and_frees_its_id(served):
    served.runtime.submit(request(1))
    old = served.core.sent[0]
    served.runtime.abort(1)
    served.runtime.abort(1)
    served.runtime.abort(77)
    assert [d.finish_reason for d in served.step()] == ["cancelled"]
    assert served.core.aborted == [old]
    served.runtime.submit(request(1))
    say(served, Output(old, [5]), Output(served.core.sent[1], [6]))  # what was on its way for the old one is dropped
    assert [(d.sequence_id, d.token_ids) for d in served.step()] == [(1, [6])]


def test_an_error_of_one_request_names_the_engine_and_ends_it_alone(served):
    served.runtime.submit(request(1))
    served.runtime.submit(request(2))
    say(served, Output(served.core.sent[0], [], ERROR), Output(served.core.sent[1], [3]))
    failed, other = served.step()
    assert failed.finish_reason == "error" and failed.error.startswith("engine: ")
    assert other.finish_reason is None


def test_a_guide_that_vllm_refuses_ends_its_sequence_by_name_and_leaves_nothing(served):
    served.runtime.submit(request(1, guide=Guide("regex", "[")))
    (delta,) = served.step()
    assert delta.finish_reason == "error" and isinstance(from_wire(delta.error), InvalidRequest)
    assert "does not compile" in delta.error
    assert not served.core.sent and not served.runtime._sequences and not served.runtime._request_ids


def test_an_optional_guide_that_vllm_refuses_is_left_out(served):
    served.runtime.submit(request(1, guide=Guide("regex", "[", optional=True)))
    until(lambda: served.core.sent)
    say(served, Output(served.core.sent[0], [5]))
    assert [d.token_ids for d in served.step()] == [[5]]


def test_a_slow_guide_delays_nobody_and_can_be_aborted(served):
    """``prepare`` of one sequence runs while others enter, step and are aborted."""
    served.runtime.submit(request(1, guide=Guide("regex", "slow")))
    served.runtime.submit(request(2, guide=Guide("regex", "slow")))
    served.runtime.submit(request(3))
    assert len(served.core.sent) == 1
    say(served, Output(served.core.sent[0], [5]))
    assert [(d.sequence_id, d.token_ids) for d in served.step()] == [(3, [5])]
    assert served.runtime.stats().generated_tokens == 1
    served.runtime.abort(1)
    assert [(d.sequence_id, d.finish_reason) for d in served.step()] == [(1, "cancelled")]
    served.core.compiling.set()
    until(lambda: len(served.core.sent) == 2)
    say(served, Output(served.core.sent[1], [6]))
    assert [(d.sequence_id, d.token_ids) for d in served.step()] == [(2, [6])], "the aborted one was never sent"
    assert len(served.core.sent) == 2


def test_stats_follow_the_scheduler(served):
    served.runtime.submit(request(1))
    say(served, Output(served.core.sent[0], [5], prefill_stats=Prefill(3, 2)), stats=Scheduler(4, 1, 2, 0.25))
    served.step()
    stats = served.runtime.stats()
    assert (stats.running, stats.waiting, stats.kv_blocks_used, stats.kv_blocks_total) == (4, 3, 50, 200)
    assert (stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens, stats.steps) == (3, 2, 1, 1)


@pytest.mark.parametrize(
    ("how", "why"),
    [("message", "its process ended"), ("flag", "its process ended"), ("garbage", "'object' object has no attribute")],
)
def test_a_dead_engine_is_reported_once_and_refuses(served, how, why, caplog):
    served.core.dead = how != "garbage"
    if how == "message":  # what vLLM's client says then: "See stack trace (above)", which no client sees
        served.core.outputs.put(RuntimeError("EngineCore encountered an issue"))
    elif how == "garbage":
        served.core.outputs.put(object())
    assert why in served.deaths.get(timeout=60)
    assert ("Traceback" in caplog.text) == (how == "garbage")
    with pytest.raises(EngineUnavailable, match=r"^engine: .*died \(.*\); the server restarts it, try"):
        served.runtime.submit(request(1))
    assert served.deaths.empty()


def test_a_broken_send_leaves_no_stream(served):
    served.core.broken = True
    with pytest.raises(EngineUnavailable, match="socket is gone"):
        served.runtime.submit(request(1))
    assert not served.runtime._sequences and not served.runtime._request_ids


def test_close_is_bounded_idempotent_and_no_death(served):
    served.runtime.close()
    served.runtime.close()
    assert served.core.shutdowns == 1 and served.deaths.empty()
    assert not any(t.name == "vllm-steps" and t.is_alive() for t in threading.enumerate())


def test_drafted_and_accepted_tokens_are_counted(served):
    served.runtime.submit(request(1))
    drafts = SimpleNamespace(num_draft_tokens=4, num_accepted_tokens=3)
    for _ in range(2):
        say(served, Output(served.core.sent[0], [5, 6, 7, 8]), stats=Scheduler(spec_decoding_stats=drafts))
        (delta,) = served.step()
        assert delta.counted == 4
    stats = served.runtime.stats()
    assert (stats.drafted_tokens, stats.accepted_tokens, stats.generated_tokens) == (8, 6, 8)
