"""End tokens and log probabilities: the same on every backend."""

from __future__ import annotations

from tests.serving.runtimes.tensorrt_llm.harness import END, END_OF_TEXT, TORCH_14


def test_end_token_never_appears_and_counts_alike_on_every_backend(harness):
    for sequence_id, end in ((1, END), (2, END_OF_TEXT)):
        prompt = [10, sequence_id]
        harness.control.script[tuple(prompt)] = [5, 6, 7, end]
        harness.submit(sequence_id, prompt)
        harness.wait(sequence_id)
        assert harness.tokens(sequence_id) == [5, 6, 7]
        assert sum(delta.counted for delta in harness.deltas(sequence_id)) == 4
        assert [d.finish_reason for d in harness.deltas(sequence_id)][-1] == "stop"
        assert harness.deltas(sequence_id)[-1].end == (end, None, ())
        assert not any(delta.end for delta in harness.deltas(sequence_id)[:-1])


def test_ignore_eos_keeps_the_end_token_but_honours_the_callers_stop_ids(harness):
    harness.control.script[(4,)] = [END, 9, END_OF_TEXT, 77, 8]
    harness.submit(1, [4], ignore_eos=True, stop_token_ids=(77,), max_tokens=8)
    harness.wait(1)
    assert harness.tokens(1) == [END, 9, END_OF_TEXT]
    assert harness.deltas(1)[-1].finish_reason == "stop" and harness.deltas(1)[-1].end == (77, None, ())


def test_own_end_id_replaces_the_models(harness):
    harness.control.script[(4,)] = [END, 42, 8]
    harness.submit(1, [4], stop_token_ids=(42,))
    harness.wait(1)
    assert harness.tokens(1) == [END]


def test_log_probabilities_match_the_tokens(start):
    harness = start("pytorch")
    harness.control.script[(1,)] = [5, 6, END]
    harness.submit(1, [1], logprobs=1)
    harness.wait(1)
    flat = [value for delta in harness.deltas(1) for value in delta.logprobs]
    assert flat == [-0.1, -0.1] and not any(delta.top_logprobs for delta in harness.deltas(1))
    assert harness.deltas(1)[-1].end == (END, -0.1, ())
    harness = start(*TORCH_14)
    harness.submit(2, [2], logprobs=4, max_tokens=2)
    harness.wait(2)
    tops = [top for delta in harness.deltas(2) for top in delta.top_logprobs]
    assert len(tops) == 2 and all(len(top) == 3 and top[0][1] >= top[1][1] for top in tops)
