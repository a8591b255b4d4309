"""A whole response as one tensor, for programs that read every chunk (``packed_output``): its writer and its reader.

Each output tensor of an ensemble costs Triton and its reader microseconds per chunk: shared memory, hash tables,
protobuf. A client that asks for it gets ``packed``, UINT8 [1, n], instead of eight to eleven tensors. One record per
sequence, little-endian, no padding:

    INT32 × 6   finish reason (index into ``FINISH_CODES``), prompt_tokens, completion_tokens, cached_tokens,
                chunk_index, sequence_index
    FP32        cum_log_probs
    INT32 × 5   how many: output_ids, output_log_probs, bytes of text_output, bytes of top_log_probs, bytes of prompt
    INT32       1: the last of output_ids is the token that ended the answer (``return_end_token``)
    INT32 × n   output_ids        FP32 × n  output_log_probs
    bytes       text_output (UTF-8), top_log_probs (JSON), prompt (contract/prompt_part.py)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from contract.finish import FINISH_CODES, FinishReason

if TYPE_CHECKING:
    from contract.chunks import Chunk  # needs numpy, which the client does not

_HEAD = struct.Struct("<6if6i")
REASONS: tuple[FinishReason | None, ...] = tuple(name or None for name in FINISH_CODES)  # by code; None: goes on


class SequenceOutput(NamedTuple):
    """One record as read. ``ids`` is INT32, ``log_probs`` FP32, ``tops`` JSON, ``prompt`` a ``PromptPart``, each as raw
    bytes: most readers need none of them."""

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
    prompt: bytes = b""
    ended: bool = False

    @property
    def token_ids(self) -> list[int]:
        return memoryview(self.ids).cast("i").tolist()

    @property
    def token_log_probs(self) -> list[float]:
        return list(map(float, memoryview(self.log_probs).cast("f")))


def pack(chunks: Iterable[Chunk]) -> bytes:
    """The ``packed`` tensor of one response: a record per sequence."""
    return b"".join(map(_record, chunks))


def _record(c: Chunk) -> bytes:
    text = c.text.encode()
    head = _HEAD.pack(
        c.finish, c.prompt_tokens, c.completion_tokens, c.cached_tokens, c.seq - 1, c.sequence_index, c.cum_log_prob,
        len(c.ids), len(c.log_probs), len(text), len(c.top_logprobs), len(c.prompt),
        c.ended,
    )  # fmt: skip
    numbers = struct.pack(f"<{len(c.ids)}i{len(c.log_probs)}f", *c.ids, *c.log_probs)
    return head + numbers + text + c.top_logprobs + c.prompt


def unpack(raw: bytes) -> SequenceOutput:
    """The first record of a ``packed`` tensor. Raises ``struct.error`` or ``IndexError`` for bytes that hold none."""
    finish, prompt, completion, cached, chunk, sequence, _, ids, probs, text, tops, about, ended = _HEAD.unpack_from(
        raw
    )
    at_probs = _HEAD.size + 4 * ids
    at_text = at_probs + 4 * probs
    at_tops = at_text + text
    at_prompt = at_tops + tops
    return SequenceOutput(
        raw[at_text:at_tops].decode(), REASONS[finish], prompt, completion, cached, chunk, sequence,
        raw[_HEAD.size : at_probs], raw[at_probs:at_text], raw[at_tops:at_prompt], raw[at_prompt : at_prompt + about],
        bool(ended),
    )  # fmt: skip
