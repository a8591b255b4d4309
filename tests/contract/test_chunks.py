"""What the steps say to each other survives the way."""

from __future__ import annotations

import contextlib

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.chunks import HEADER_WORDS, PLAIN, Chunk, IntArray, Job, TextOptions, join, pack, unpack
from contract.finish import FINISH_CODES
from contract.sampling import Guide, Sampling

INT32 = st.integers(-(2**31), 2**31 - 1)
COUNT = st.integers(0, 2**31 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(max_size=40)
ID = st.integers(0, 152063)

OPTIONS = st.builds(
    TextOptions, stops=st.lists(TEXT, max_size=3).map(tuple), include_stop=st.booleans(), min_tokens=COUNT,
    echo=TEXT, log_probs=st.booleans(), end_token=st.booleans(),
)  # fmt: skip
TOPS = st.lists(st.lists(st.tuples(ID, FLOAT), max_size=3), max_size=4)
CHUNKS = st.builds(
    Chunk, slot=st.integers(-1, 4096), generation=COUNT, seq=COUNT, sequence_index=COUNT, prompt_tokens=COUNT,
    completion_tokens=COUNT, cached_tokens=COUNT, finish=st.integers(0, len(FINISH_CODES) - 1),
    ids=st.lists(ID, min_size=1, max_size=20), log_probs=st.lists(FLOAT32, max_size=20), ended=st.booleans(),
    options=st.one_of(st.just(PLAIN), OPTIONS),
    top_logprobs=st.one_of(st.just(b""), TOPS.map(orjson.dumps)),
    prompt=st.one_of(st.just(b""), st.binary(max_size=30)),
)  # fmt: skip
SAMPLING = st.builds(
    Sampling, max_tokens=COUNT, temperature=FLOAT, top_p=FLOAT, top_k=COUNT, min_p=FLOAT, repetition_penalty=FLOAT,
    presence_penalty=FLOAT, frequency_penalty=FLOAT, seed=st.integers(0, 2**64 - 1), min_tokens=COUNT,
    stop_token_ids=st.lists(ID, max_size=4).map(tuple), allowed_token_ids=st.lists(ID, max_size=4).map(tuple),
    bad_words=st.lists(st.lists(ID, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    ignore_eos=st.booleans(), logprobs=st.integers(0, 21),
    guide=st.one_of(st.none(), st.builds(Guide, st.sampled_from(["json", "regex"]), TEXT)),
)  # fmt: skip
JOBS = st.builds(
    Job, sampling=SAMPLING, n=st.integers(1, 16), stream=st.booleans(), text=OPTIONS, priority=INT32, lora_name=TEXT,
    explicit=st.lists(st.sampled_from(["seed", "min_p", "priority"]), max_size=3).map(tuple), cancel=st.booleans(),
)  # fmt: skip


def packed(c: Chunk) -> IntArray:
    options = b"" if c.options is PLAIN else orjson.dumps(c.options)
    return pack(
        c.slot, c.generation, c.seq, c.sequence_index, c.prompt_tokens, c.completion_tokens, c.cached_tokens, c.finish,
        c.ids, c.log_probs, options=options, top_logprobs=c.top_logprobs, prompt=c.prompt, ended=c.ended,
    )  # fmt: skip


@given(chunks=st.lists(CHUNKS, min_size=1, max_size=4))
def test_chunks_survive(chunks: list[Chunk]) -> None:
    words = join([packed(chunk) for chunk in chunks])
    assert words.dtype == np.int32 and words.ndim == 1
    assert list(unpack(words)) == chunks


@given(job=JOBS)
def test_jobs_survive(job: Job) -> None:
    assert Job.from_json(job.to_json()) == job


HEADER = [0, 1, 1, 0, 5, 1, 0, 0]


@pytest.mark.parametrize(
    "words",
    [
        [1, 2, 3], [-1, 0, 0, 0, 0, 0, 0, 0, -12, 0, 0, 0, 0, 0], [*HEADER, 2**31 - 1, 0, 0, 0, 0, 0],
        [*HEADER, 1, 0, 0, 0, 0, 0], [*HEADER, 0, -1, 0, 0, 0, 0], [*HEADER, 0, 0, 2**31 - 1, 0, 0, 0],
        [*HEADER, 0, 0, 0, 5, 0, 0], [*HEADER, 0, 0, 0, 0, 5, 0], [*HEADER, 0, 0, 0, 0, -1, 0],
        [*HEADER, 0, 0, 0, 0, 0, 1], [*HEADER, 1, 0, 0, 0, 0, 2, 42], [*HEADER, 1, 0, 0, 0, 0, -1, 42],
        [-2, *HEADER[1:], 0, 0, 0, 0, 0, 0], [*HEADER[:7], 99, 0, 0, 0, 0, 0, 0],
    ],
)  # fmt: skip
def test_words_that_are_no_chunk_are_refused(words: list[int]) -> None:
    """Negative counts would have it read the same words for ever."""
    with pytest.raises(ValueError, match="a chunk"):
        list(unpack(np.array(words, dtype=np.int32)))


@given(words=st.lists(INT32, max_size=40))
def test_no_words_keep_the_reader(words: list[int]) -> None:
    with contextlib.suppress(ValueError):
        assert len(list(unpack(np.array(words, dtype=np.int32)))) <= len(words) // HEADER_WORDS + 1


def test_a_lone_chunk_without_extras_is_fifteen_words() -> None:
    """All but a sequence's first chunk: what one token costs between the steps."""
    assert len(pack(3, 9, 2, 0, 10, 2, 0, 0, [42])) == 15
