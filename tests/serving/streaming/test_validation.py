"""What a runtime may be asked for: wishes are refused, defaults dropped, lengths and ids checked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from contract.chunks import Job, TextOptions
from contract.errors import InvalidRequest, Unsupported
from contract.sampling import Guide, Sampling
from serving.runtimes.base import CAPABILITIES, RuntimeLimits
from serving.streaming.validation import fit, reseeded

LIMITS = RuntimeLimits(max_seq_len=100, max_input_len=80, vocab_size=1000, max_streams=4)


@dataclass
class Limits:
    """As much of a runtime as admission looks at."""

    capabilities: frozenset[str] = frozenset()
    limits: RuntimeLimits = LIMITS


PLAIN = Job(Sampling(max_tokens=10))


def test_an_optional_guide_that_the_engine_lacks_is_left_out() -> None:
    guide = Guide("structural_tag", "{}", optional=True)
    job = Job(Sampling(max_tokens=1, guide=guide))
    assert fit(job, [1], Limits()).guide is None
    assert fit(job, [1], Limits(frozenset({"guide:structural_tag"}))).guide is guide


@pytest.mark.parametrize(
    ("sampling", "default"),
    [
        ({"repetition_penalty": 1.05}, {"repetition_penalty": 1.0}),
        ({"min_p": 0.1, "presence_penalty": 1.0}, {"min_p": 0.0, "presence_penalty": 0.0}),
        ({"bad_words": ((1, 2),)}, {"bad_words": ()}),
    ],
)
def test_a_default_that_the_engine_lacks_is_dropped_and_kept_where_it_has_it(
    sampling: dict[str, float], default: dict[str, float]
) -> None:
    job = replace(PLAIN, sampling=replace(PLAIN.sampling, **sampling))
    assert fit(job, [1], Limits()) == replace(PLAIN.sampling, **default)
    assert fit(job, [1], Limits(CAPABILITIES)) == job.sampling


@pytest.mark.parametrize(
    "name", sorted(c for c in CAPABILITIES if ":" not in c and c not in ("lora", "logprobs", "top_logprobs"))
)
def test_a_wish_that_the_engine_lacks_is_refused_by_name(name: str) -> None:
    job = replace(PLAIN, explicit=(name,))
    with pytest.raises(Unsupported) as caught:
        fit(job, [1], Limits())
    assert caught.value.field == name and "leave the field out" in str(caught.value)
    assert fit(job, [1], Limits(frozenset({name}))).max_tokens == 10


@pytest.mark.parametrize(
    ("job", "field"),
    [
        (replace(PLAIN, lora_name="x"), "lora_name"),
        (Job(Sampling(max_tokens=1, guide=Guide("regex", "a+"))), "guided_decoding_guide_type regex"),
        (Job(Sampling(max_tokens=1, logprobs=1)), "logprobs"),
        (Job(Sampling(max_tokens=1, logprobs=3)), "top_logprobs"),
    ],
)
def test_features_are_refused_even_without_a_name(job: Job, field: str) -> None:
    with pytest.raises(Unsupported, match=f"^{field}: the loaded engine cannot honour it"):
        fit(job, [1], Limits())


def test_the_prompt_limit_names_both_numbers() -> None:
    with pytest.raises(
        InvalidRequest, match=r"^text_input: the prompt has 81 tokens, the context is 100 and a prompt may take 80"
    ):
        fit(PLAIN, [1] * 81, Limits())


def test_max_tokens_beyond_the_context_says_what_fits() -> None:
    assert fit(Job(Sampling(max_tokens=30)), [1] * 70, Limits()).max_tokens == 30
    with pytest.raises(
        InvalidRequest, match=r"^max_tokens: 31 with a prompt of 70 tokens .* 100 tokens; use at most 30"
    ):
        fit(Job(Sampling(max_tokens=31)), [1] * 70, Limits())


def test_no_max_tokens_is_what_the_context_leaves() -> None:
    assert fit(Job(Sampling(max_tokens=0)), [1] * 70, Limits()).max_tokens == 30


@pytest.mark.parametrize("ids", [[0, 1000], [-1, 5]])
def test_ids_outside_the_vocabulary_never_reach_an_engine(ids: list[int]) -> None:
    with pytest.raises(InvalidRequest, match=r"^input_ids: ids must be between 0 and 999; got (1000|-1|5)"):
        fit(PLAIN, ids, Limits())


def test_sequences_differ_by_their_seed_alone() -> None:
    sampling = Sampling(max_tokens=5, seed=2**64 - 1)
    assert reseeded(sampling, 0) == sampling
    assert reseeded(sampling, 1) == replace(sampling, seed=0)


@pytest.mark.parametrize(
    ("ids", "max_tokens", "problem"),
    [((1,) * 10, 10, "leave nothing of max_tokens = 10"), ((1,) * 99, 0, "max_tokens = 99"), ((5, 1000), 10, "1000")],
)
def test_ids_to_resume_leave_room_and_are_ids(ids: tuple[int, ...], max_tokens: int, problem: str) -> None:
    job = Job(Sampling(max_tokens), text=TextOptions(resume_ids=ids))
    with pytest.raises(InvalidRequest, match=f"^resume_ids: .*{problem}"):
        fit(job, [1], Limits(CAPABILITIES))
