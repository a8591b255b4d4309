"""A response in one tensor says what the named tensors say."""

from __future__ import annotations

import struct
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from client.kserve import sequence_output
from contract.chunks import Chunk
from contract.finish import FINISH_CODES
from contract.packed import SequenceOutput, pack, unpack
from contract.prompt_part import PromptPart

COUNT = st.integers(0, 2**31 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
CHUNKS = st.builds(
    Chunk, slot=COUNT, generation=COUNT, seq=st.integers(1, 2**31 - 1), sequence_index=COUNT, prompt_tokens=COUNT,
    completion_tokens=COUNT, cached_tokens=COUNT, finish=st.integers(0, len(FINISH_CODES) - 1),
    ids=st.lists(st.integers(0, 152063), max_size=12), log_probs=st.lists(FLOAT32, max_size=12), cum_log_prob=FLOAT32,
    top_logprobs=st.one_of(st.just(b""), st.just(orjson.dumps([[[1, -0.5]]]))), text=st.text(max_size=30),
    ended=st.booleans(),
    prompt=st.one_of(st.just(b""), st.lists(COUNT, min_size=1, max_size=5).map(lambda ids: PromptPart(ids).pack())),
)  # fmt: skip


def says(record: SequenceOutput, chunk: Chunk) -> bool:
    return (
        record.text == chunk.text
        and (record.finish or "") == FINISH_CODES[chunk.finish]
        and record[2:7]
        == (chunk.prompt_tokens, chunk.completion_tokens, chunk.cached_tokens, chunk.seq - 1, chunk.sequence_index)
        and record.token_ids == chunk.ids
        and record.token_log_probs == chunk.log_probs
        and record.tops == chunk.top_logprobs
        and record.prompt == chunk.prompt
    )


@given(chunk=CHUNKS)
def test_a_chunk_survives(chunk: Chunk) -> None:
    record = unpack(pack([chunk]))
    assert says(record, chunk) and record.ended == chunk.ended


@given(chunks=st.lists(CHUNKS, min_size=2, max_size=4))
def test_several_sequences_follow_each_other(chunks: list[Chunk]) -> None:
    raw = pack(chunks)
    for chunk in chunks:
        assert says(unpack(raw), chunk)
        raw = raw[len(pack([chunk])) :]
    assert raw == b""


@given(chunk=CHUNKS, log_probs=st.booleans())
def test_the_reader_takes_named_tensors_as_well(chunk: Chunk, log_probs: bool) -> None:
    response = pb.ModelInferResponse()

    def add(name: str, raw: bytes) -> None:
        response.outputs.add(name=name)
        response.raw_output_contents.append(raw)

    def text(value: bytes) -> bytes:
        return struct.pack("<I", len(value)) + value

    add("text_output", text(chunk.text.encode()))
    add("finish_reason", text(FINISH_CODES[chunk.finish].encode()))
    add("chunk_index", struct.pack("<i", chunk.seq - 1))
    for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "sequence_index"):
        add(name, struct.pack("<i", getattr(chunk, name)))
    add("output_ids", struct.pack(f"<{len(chunk.ids)}i", *chunk.ids))
    if log_probs:
        add("output_log_probs", struct.pack(f"<{len(chunk.log_probs)}f", *chunk.log_probs))
        add("top_log_probs", text(chunk.top_logprobs))
    if chunk.prompt:
        ids = PromptPart.unpack(chunk.prompt).ids
        add("prompt_ids", struct.pack(f"<{len(ids)}i", *ids))
    got = sequence_output(response)
    assert got is not None
    assert says(got, chunk if log_probs else replace(chunk, log_probs=[], top_logprobs=b""))


def test_tritons_empty_final_response_is_no_record() -> None:
    assert sequence_output(pb.ModelInferResponse()) is None


@pytest.mark.parametrize("raw", [b"", b"\x07" * 44])
def test_rubbish_is_an_error(raw: bytes) -> None:
    with pytest.raises((struct.error, IndexError)):
        unpack(raw)
