"""What a request asks of TensorRT-LLM."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.sampling import ANY_OBJECT, Guide
from tests.serving.runtimes.tensorrt_llm.harness import END, END_OF_TEXT

TAG = '{"type": "structural_tag", "format": {"type": "const_string", "value": "a"}}'


def test_greedy_is_top_k_1_alone_and_sampling_says_all_three(harness):
    harness.submit(1, [1])
    harness.submit(2, [1], temperature=0.7, top_p=0.8, top_k=20, seed=9)
    harness.wait(1, 2)
    greedy, sampled = (call["sampling_params"] for call in harness.control.requests)
    assert (greedy.top_k, greedy.top_p, greedy.temperature) == (1, None, None)
    assert (sampled.top_k, sampled.top_p, sampled.temperature, sampled.seed) == (20, 0.8, 0.7, 9)
    assert greedy.end_id == END and greedy.stop_token_ids == [END_OF_TEXT]
    assert greedy is not sampled and not greedy.detokenize


def test_nothing_the_sampler_of_1_2_1_ignores_is_lost(start):
    """The default TorchSampler would drop these in silence; TRTLLMSampler must be in force."""
    harness = start("pytorch")
    harness.submit(
        1,
        [1],
        temperature=0.5,
        seed=3,
        repetition_penalty=1.05,
        presence_penalty=0.1,
        min_p=0.1,
        bad_words=((5,), (6, 7)),
    )
    harness.wait(1)
    assert harness.llm.args.sampler_type == "TRTLLMSampler"
    assert harness.control.unhonoured == []
    params = harness.control.requests[0]["sampling_params"]
    assert params.bad_token_ids == [5] and params._bad_word_ids == [[6, 7]]


@pytest.mark.parametrize(
    ("guide", "field", "value"),
    [
        (Guide("json", ANY_OBJECT), "json", ANY_OBJECT),
        (Guide("json_schema", '{"type":"object"}'), "json", '{"type":"object"}'),
        (Guide("regex", "[0-9]+"), "regex", "[0-9]+"),
        (Guide("ebnf_grammar", 'root ::= "a"'), "grammar", 'root ::= "a"'),
        (Guide("structural_tag", TAG), "structural_tag", TAG),
    ],
)
def test_guides(harness, guide, field, value):
    harness.submit(1, [1], guide=guide)
    harness.wait(1)
    assert harness.deltas(1)[-1].finish_reason == "length"
    assert getattr(harness.control.requests[0]["sampling_params"].guided_decoding, field) == value
    assert harness.llm.args.tokenizer == str(Path(harness.llm.args.model).parent)


def test_an_optional_guide_is_left_out(start):
    """One that does not compile would end all requests."""
    harness = start("engine")
    harness.submit(1, [1], guide=Guide("structural_tag", TAG, optional=True))
    harness.wait(1)
    assert harness.control.requests[0]["sampling_params"].guided_decoding is None
