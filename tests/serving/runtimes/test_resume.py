"""Output of an earlier attempt as the end of a prompt: what counts on, and what cannot."""

from __future__ import annotations

from typing import Any

import pytest

from contract.errors import InvalidRequest, Unsupported
from contract.sampling import ANY_OBJECT, Guide, Sampling
from serving.runtimes.base import EngineRequest
from serving.runtimes.resume import as_prompt, prompt_cached

DONE = [7, 8, 9]


def request(seeded: bool = False, **sampling: Any) -> EngineRequest:
    settings = Sampling(**{"max_tokens": 10, "temperature": 0.7, "seed": 4} | sampling)
    return EngineRequest(1, [1, 2], settings, seeded=seeded, resume_ids=DONE)


@pytest.mark.parametrize(("asked", "left"), [(0, 0), (2, 0), (5, 2)])
def test_the_limits_count_what_is_left(asked: int, left: int) -> None:
    got = as_prompt(request(min_tokens=asked, repetition_penalty=1.05, logprobs=2), 5)
    assert got.input_ids == [1, 2, 7, 8, 9]
    assert (got.sampling.max_tokens, got.sampling.min_tokens, got.sampling.logprobs) == (7, left, 2)
    assert prompt_cached(got, 4) == 2 and prompt_cached(got, 1) == 1


@pytest.mark.parametrize(
    ("name", "seeded", "sampling"),
    [
        ("seed", True, {}),
        ("guided decoding", False, {"guide": Guide("json", ANY_OBJECT)}),
        ("presence_penalty", False, {"presence_penalty": 0.5}),
        ("frequency_penalty", False, {"frequency_penalty": -0.5}),
        ("bad word", False, {"bad_words": ((1,), (2, 3))}),
        ("return_prompt_log_probs", False, {"prompt_logprobs": 1}),
    ],
)
def test_what_would_not_go_on_as_it_was_is_refused_by_name(name: str, seeded: bool, sampling: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=f"^resume_ids: .*{name}"):
        as_prompt(request(seeded, **sampling), 99)
    assert as_prompt(request(seeded=True, temperature=0.0, bad_words=((1,),)), 99).resume_ids == DONE


def test_the_engines_limit_on_prompts_holds() -> None:
    with pytest.raises(InvalidRequest, match="prompt and ids have 5 tokens, and this engine reads 4"):
        as_prompt(request(), 4)
    whole = EngineRequest(1, [1, 2], Sampling(10))
    assert as_prompt(whole, 1) is whole
