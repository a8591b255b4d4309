"""A whole response as one tensor, for programs that read every chunk (``packed_output``).

Each output tensor of an ensemble costs Triton and its reader microseconds per chunk: shared memory, hash tables,
protobuf. A client that asks for it gets ``packed``, UINT8 [1, n], instead of eight to eleven tensors. One record per
sequence, little-endian, no padding:

    INT32 × 6   finish reason (index into ``FINISH_CODES``), prompt_tokens, completion_tokens, cached_tokens,
                chunk_index, sequence_index
    FP32        cum_log_probs
    INT32 × 4   how many: output_ids, output_log_probs, bytes of text_output, bytes of top_log_probs
    INT32 × n   output_ids        FP32 × n  output_log_probs        bytes  text_output (UTF-8), top_log_probs (JSON)

``client/_packed.py`` reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from contract.chunks import FINISH_CODES

if TYPE_CHECKING:
    from serving.detokenizer.step import Piece

HEAD = struct.Struct("<6if4i")
_CODES = {name: code for code, name in enumerate(FINISH_CODES)}


def pack(pieces: Sequence[Piece]) -> bytes:
    return b"".join(map(_record, pieces))


def _record(p: Piece) -> bytes:
    text, probs, tops = p.text.encode(), p.log_probs or (), p.top_logprobs
    head = HEAD.pack(
        _CODES[p.finish_reason], p.prompt_tokens, p.completion_tokens, p.cached_tokens, p.chunk_index,
        p.sequence_index, p.cum_log_prob, len(p.ids), len(probs), len(text), len(tops),
    )  # fmt: skip
    return head + struct.pack(f"<{len(p.ids)}i{len(probs)}f", *p.ids, *probs) + text + tops
