"""Which prompts a simulated engine has read before: a prefix cache without keys and values, for routing benchmarks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np


class PrefixCache:
    """Blocks of ``block`` tokens, each known by itself and all before it. The one used longest ago goes first."""

    def __init__(self, blocks: int, block: int) -> None:
        self._most, self._block = blocks, block
        self._seen: OrderedDict[int, None] = OrderedDict()

    def read(self, ids: Sequence[int], salt: str) -> int:
        """Remember a prompt; returns how many of its first tokens were known. The last token is always computed."""
        tokens = np.asarray(ids, dtype=np.int32)
        key, known, found = hash(salt), 0, True
        for start in range(0, len(tokens) - self._block + 1, self._block):
            key = hash((key, tokens[start : start + self._block].tobytes()))
            found = found and key in self._seen
            known += self._block * found
            self._seen[key] = None
            self._seen.move_to_end(key)
        while len(self._seen) > self._most:
            self._seen.popitem(last=False)
        return min(known, max(0, len(tokens) - 1))
