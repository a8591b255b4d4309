"""A whole response as one tensor, for programs that read every chunk (``packed_output``): its writer and its reader.

Each output tensor of an ensemble costs Triton and its reader microseconds per chunk: shared memory, hash tables,
protobuf. A client that asks for it gets ``packed``, UINT8 [1, n], instead of eight to eleven tensors. One record per
sequence, little-endian, no padding:

    INT32 × 6   finish reason (index into ``FINISH_CODES``), prompt_tokens, completion_tokens, cached_tokens,
                chunk_index, sequence_index
    FP32        cum_log_probs
    INT32 × 4   how many: output_ids, output_log_probs, bytes of text_output, bytes of top_log_probs
    INT32 × n   output_ids        FP32 × n  output_log_probs        bytes  text_output (UTF-8), top_log_probs (JSON)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from contract.finish import FINISH_CODES, FinishReason

_HEAD = struct.Struct("<6if4i")
_CODES: dict[str, int] = {name: code for code, name in enumerate(FINISH_CODES)}
REASONS: tuple[FinishReason | None, ...] = tuple(name or None for name in FINISH_CODES)  # by code; None: goes on


class Packable(Protocol):
    """What the writer reads of one sequence's chunk; ``log_probs`` is ``None`` when nobody asked for them."""

    @property
    def text(self) -> str: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def chunk_index(self) -> int: ...
    @property
    def sequence_index(self) -> int: ...
    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def log_probs(self) -> Sequence[float] | None: ...
    @property
    def cum_log_prob(self) -> float: ...
    @property
    def top_logprobs(self) -> bytes: ...


class SequenceOutput(NamedTuple):
    """One record as read. ``ids`` is INT32, ``log_probs`` FP32, ``tops`` JSON, each as raw bytes: most readers need
    none of them."""

    text: str
    finish: FinishReason | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    chunk_index: int
    sequence_index: int
    ids: bytes = b""
    log_probs: bytes = b""
    tops: bytes = b""

    @property
    def token_ids(self) -> list[int]:
        return memoryview(self.ids).cast("i").tolist()

    @property
    def token_log_probs(self) -> list[float]:
        return list(map(float, memoryview(self.log_probs).cast("f")))


def pack(chunks: Iterable[Packable]) -> bytes:
    """The ``packed`` tensor of one response: a record per sequence."""
    return b"".join(map(_record, chunks))


def _record(p: Packable) -> bytes:
    text, probs, tops = p.text.encode(), p.log_probs or (), p.top_logprobs
    head = _HEAD.pack(
        _CODES[p.finish_reason], p.prompt_tokens, p.completion_tokens, p.cached_tokens, p.chunk_index,
        p.sequence_index, p.cum_log_prob, len(p.ids), len(probs), len(text), len(tops),
    )  # fmt: skip
    return head + struct.pack(f"<{len(p.ids)}i{len(probs)}f", *p.ids, *probs) + text + tops


def unpack(raw: bytes) -> SequenceOutput:
    """The first record of a ``packed`` tensor. Raises ``struct.error`` or ``IndexError`` for bytes that hold none."""
    finish, prompt, completion, cached, chunk, sequence, _, ids, probs, text, tops = _HEAD.unpack_from(raw)
    at_probs = _HEAD.size + 4 * ids
    at_text = at_probs + 4 * probs
    at_tops = at_text + text
    return SequenceOutput(
        raw[at_text:at_tops].decode(), REASONS[finish], prompt, completion, cached, chunk, sequence,
        raw[_HEAD.size : at_probs], raw[at_probs:at_text], raw[at_tops : at_tops + tops],
    )  # fmt: skip
