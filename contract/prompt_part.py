"""What responses say about the prompt, on request: its token ids, and how likely the model found each of them.

Kept apart from the rest of a chunk, as bytes, because almost no response has any. Little-endian, padded at the end:

    INT32 × 3   how many: ids, scores, bytes of top_log_probs
    INT32 × n   ids      FP32 × m  log_probs      INT32 × m  ranks      bytes  top_log_probs (JSON)
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_HEAD = struct.Struct("<3i")


class PromptPart(NamedTuple):
    """``ids``: all of the prompt's, or none. Scores may come in several responses, in order: of the second token, the
    third, … (nothing comes before the first). ``log_probs`` are natural logs given all tokens before; ``ranks`` count
    from 1, the most likely token; ``tops`` is JSON, for each score ``[[token id, log probability], …]`` best first.
    """

    ids: Sequence[int] = ()
    log_probs: Sequence[float] = ()
    ranks: Sequence[int] = ()
    tops: bytes = b""

    def pack(self) -> bytes:
        return (
            _HEAD.pack(len(self.ids), len(self.log_probs), len(self.tops))
            + array("i", self.ids).tobytes()
            + array("f", self.log_probs).tobytes()
            + array("i", self.ranks).tobytes()
            + self.tops
        )

    @classmethod
    def unpack(cls, raw: bytes) -> PromptPart:
        """Raises ``struct.error`` or ``ValueError`` for bytes that hold none."""
        ids, scores, tops = _HEAD.unpack_from(raw)
        if min(ids, scores, tops) < 0 or _HEAD.size + 4 * (ids + 2 * scores) + tops > len(raw):
            raise ValueError(f"{len(raw)} bytes for {ids} ids, {scores} scores and {tops} bytes of alternatives")
        at = _HEAD.size

        def words(code: str, count: int) -> list[int] | list[float]:
            nonlocal at
            found = array(code, raw[at : at + 4 * count])
            at += 4 * count
            return found.tolist()

        return cls(words("i", ids), words("f", scores), words("i", scores), raw[at : at + tops])  # type: ignore[arg-type]


def join(parts: Iterable[PromptPart]) -> PromptPart:
    """Successive parts as one."""
    found = list(parts)
    if len(found) == 1:
        return found[0]
    tops = [part.tops[1:-1] for part in found if len(part.tops) > 2]
    return PromptPart(
        [i for part in found for i in part.ids], [p for part in found for p in part.log_probs],
        [r for part in found for r in part.ranks], b"[" + b",".join(tops) + b"]" if tops else b"",
    )  # fmt: skip
