"""Paged KV memory: a pool of fixed blocks, counted references, and a prefix cache over full blocks.

A full block is known by the digest of all tokens up to its end, so equal prefixes share blocks. An unused block
keeps its content until it is the least recently used one and its memory is needed.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np

BLOCK_TOKENS = 32  # fixed by OpenVINO's CPU PagedAttention


def blocks_for(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)


def salted(salt: str) -> bytes:
    """What a sequence's chain of digests begins with: prefixes with different salts share no block."""
    return hashlib.blake2b(salt.encode(), digest_size=16, person=b"cache_salt").digest() if salt else b""


def digests(tokens: Sequence[int], previous: bytes = b"") -> Iterator[bytes]:
    """One 16-byte digest per full block of ``tokens``, each over everything before it too."""
    data = np.asarray(tokens, np.int32)
    for end in range(BLOCK_TOKENS, len(data) + 1, BLOCK_TOKENS):
        block = data[end - BLOCK_TOKENS : end].tobytes()
        previous = hashlib.blake2b(previous + block, digest_size=16).digest()
        yield previous


class BlockPool:
    """``total`` blocks numbered from 0. Not thread-safe: the engine's thread owns it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._references = [0] * total
        self._free = list(range(total - 1, -1, -1))
        self._block_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # unused but still cached, oldest first

    @property
    def available(self) -> int:
        return len(self._free) + len(self._idle)

    @property
    def used(self) -> int:
        return self.total - self.available

    def match(self, prefix: Sequence[bytes]) -> list[int]:
        """The blocks that hold the longest cached prefix. They are not acquired."""
        found = []
        for digest in prefix:
            block = self._block_of.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def idle_among(self, blocks: Sequence[int]) -> int:
        """How many of ``blocks`` count as available until they are acquired."""
        return sum(1 for block in blocks if block in self._idle)

    def acquire(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            self._idle.pop(block, None)
            self._references[block] += 1

    def allocate(self) -> int:
        """A block with one reference and no defined content. The caller has checked ``available``."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            del self._block_of[self._digest_of.pop(block)]
        self._references[block] = 1
        return block

    def publish(self, block: int, digest: bytes) -> None:
        """Make a full, computed block findable. The first block with a digest keeps it."""
        if digest not in self._block_of and block not in self._digest_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def release(self, blocks: Sequence[int]) -> None:
        """Give references back. Later blocks are forgotten first: a prefix is of use only from its start."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                if block in self._digest_of:
                    self._idle[block] = None
                else:
                    self._free.append(block)
