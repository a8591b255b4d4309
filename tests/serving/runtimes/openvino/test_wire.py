"""A step comes out of the pipe as it went in, and costs the streams' common case few bytes."""

from __future__ import annotations

from contract.prompt_part import PromptPart
from serving.runtimes.base import EndToken, RuntimeStats, SequenceDelta
from serving.runtimes.openvino import wire


def test_every_field_of_a_delta_comes_back() -> None:
    deltas = [
        SequenceDelta(
            7,
            (1, 2),
            2,
            "stop",
            (-0.5, -1.25),
            (((1, -0.5),), ()),
            32,
            "",
            PromptPart((4,), (-1.0,), (2,)),
            12.5,
            EndToken(3, -0.25, ((3, -0.25),)),
        ),
        SequenceDelta(8, (), 0, "error", error="no"),
    ]
    assert wire.unpack(wire.pack(deltas, RuntimeStats(running=3))) == (deltas, RuntimeStats(running=3))
    assert wire.unpack(wire.pack([], None)) == ([], None)
    assert all(isinstance(delta, SequenceDelta) for delta in wire.unpack(wire.pack(deltas, None))[0])


def test_sixteen_tokens_fit_in_a_few_hundred_bytes() -> None:
    assert len(wire.pack([SequenceDelta(i, (40_000,), 1, scheduled=1e5) for i in range(16)], None)) < 600
