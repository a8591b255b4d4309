"""A response in one tensor says what the named tensors say."""

from __future__ import annotations

import struct

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from client.kserve import sequence_output
from contract.finish import FINISH_CODES
from contract.packed import SequenceOutput, pack, unpack
from serving.detokenizer.step import Piece

COUNT = st.integers(0, 2**31 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
PIECES = st.builds(
    Piece, text=st.text(max_size=30), finish_reason=st.sampled_from(FINISH_CODES), prompt_tokens=COUNT,
    completion_tokens=COUNT, cached_tokens=COUNT, chunk_index=COUNT, sequence_index=COUNT,
    ids=st.lists(st.integers(0, 152063), max_size=12),
    log_probs=st.one_of(st.none(), st.lists(FLOAT32, max_size=12)), cum_log_prob=FLOAT32,
    top_logprobs=st.one_of(st.just(b""), st.just(orjson.dumps([[[1, -0.5]]]))), packed=st.just(True),
)  # fmt: skip


def says(record: SequenceOutput, piece: Piece) -> bool:
    return (
        record.text == piece.text
        and (record.finish or "") == piece.finish_reason
        and record[2:7]
        == (piece.prompt_tokens, piece.completion_tokens, piece.cached_tokens, piece.chunk_index, piece.sequence_index)
        and record.token_ids == piece.ids
        and record.token_log_probs == (piece.log_probs or [])
        and record.tops == piece.top_logprobs
    )


@given(piece=PIECES)
def test_a_piece_survives(piece: Piece) -> None:
    assert says(unpack(pack([piece])), piece)


@given(pieces=st.lists(PIECES, min_size=2, max_size=4))
def test_several_sequences_follow_each_other(pieces: list[Piece]) -> None:
    raw = pack(pieces)
    for piece in pieces:
        assert says(unpack(raw), piece)
        raw = raw[len(pack([piece])) :]
    assert raw == b""


@given(piece=PIECES)
def test_the_reader_takes_named_tensors_as_well(piece: Piece) -> None:
    response = pb.ModelInferResponse()

    def add(name: str, raw: bytes) -> None:
        response.outputs.add(name=name)
        response.raw_output_contents.append(raw)

    def text(value: bytes) -> bytes:
        return struct.pack("<I", len(value)) + value

    add("text_output", text(piece.text.encode()))
    add("finish_reason", text(piece.finish_reason.encode()))
    for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "chunk_index", "sequence_index"):
        add(name, struct.pack("<i", getattr(piece, name)))
    add("output_ids", struct.pack(f"<{len(piece.ids)}i", *piece.ids))
    if piece.log_probs is not None:
        add("output_log_probs", struct.pack(f"<{len(piece.log_probs)}f", *piece.log_probs))
        add("top_log_probs", text(piece.top_logprobs))
    got = sequence_output(response)
    assert got is not None
    assert says(got, piece if piece.log_probs is not None else _without_tops(piece))


def _without_tops(piece: Piece) -> Piece:
    piece.top_logprobs = b""
    return piece


def test_tritons_empty_final_response_is_no_record() -> None:
    assert sequence_output(pb.ModelInferResponse()) is None


@pytest.mark.parametrize("raw", [b"", b"\x07" * 44])
def test_rubbish_is_an_error(raw: bytes) -> None:
    with pytest.raises((struct.error, IndexError)):
        unpack(raw)
