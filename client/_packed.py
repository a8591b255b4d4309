"""One response of model ``qwen`` as a record, from its one packed tensor or from its named ones. Pure; the hot path.

The packed layout is described in ``contract/packed.py``. A stand-in that ignores ``packed_output`` answers with
named tensors; both give the same record.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from client.types import FinishReason

_HEAD = struct.Struct("<6if4i")
_REASONS: tuple[FinishReason | None, ...] = (None, "stop", "length", "cancelled", "error")
_BY_NAME: dict[bytes, FinishReason | None] = {(reason or "").encode(): reason for reason in _REASONS}
_ZERO = b"\0\0\0\0"


class Record(NamedTuple):
    """``ids`` is INT32, ``log_probs`` FP32, ``tops`` JSON, each as raw bytes: most readers need none of them."""

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


def record(response: Any) -> Record | None:
    """The only sequence of a ``ModelInferResponse``; ``None`` for Triton's empty final response."""
    raw = response.raw_output_contents
    if not raw:
        return None
    if len(raw) == 1 and response.outputs[0].name == "packed":
        return unpack(raw[0])
    return _named(dict(zip([output.name for output in response.outputs], raw, strict=True)))


def unpack(raw: bytes) -> Record:
    """The first record of a ``packed`` tensor. Raises ``struct.error`` or ``IndexError`` for what is none."""
    finish, prompt, completion, cached, chunk, sequence, _, ids, probs, text, tops = _HEAD.unpack_from(raw)
    at_probs = _HEAD.size + 4 * ids
    at_text = at_probs + 4 * probs
    at_tops = at_text + text
    return Record(
        raw[at_text:at_tops].decode(), _REASONS[finish], prompt, completion, cached, chunk, sequence,
        raw[_HEAD.size : at_probs], raw[at_probs:at_text], raw[at_tops : at_tops + tops],
    )  # fmt: skip


def _named(raw: dict[str, bytes]) -> Record:
    """Text is at byte 4: a one-element BYTES tensor."""
    return Record(
        raw["text_output"][4:].decode(),
        _BY_NAME[raw["finish_reason"][4:]],
        _first(raw, "prompt_tokens"),
        _first(raw, "completion_tokens"),
        _first(raw, "cached_tokens"),
        _first(raw, "chunk_index"),
        _first(raw, "sequence_index"),
        raw.get("output_ids", b""),
        raw.get("output_log_probs", b""),
        raw.get("top_log_probs", b"")[4:],
    )


def _first(raw: dict[str, bytes], name: str) -> int:
    return int.from_bytes(raw.get(name, _ZERO)[:4], "little", signed=True)
