"""Signs what the ensemble's steps hand to each other: a step accepts only what the previous step made.

Anyone who can reach Triton's port can call the ensemble's inner models directly, and a hand-made job or chunk could
harm other people's streams. So each step puts a keyed BLAKE2b digest of eight bytes in front of what it hands on (about
a microsecond per chunk). The key is in the private run directory; the first step to start writes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import threading
from pathlib import Path

import numpy as np

from contract.chunks import IntArray
from contract.errors import InvalidRequest

FILE_NAME = "steps.key"
SIGNATURE_BYTES = 8
SIGNATURE_WORDS = SIGNATURE_BYTES // 4


class Seal:
    """Signs and checks. ``key``: 32 bytes that only the steps of this run know."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of_run(cls, run_dir: Path) -> Seal:
        """The run's seal; steps that start at the same time agree on one."""
        path = run_dir / FILE_NAME
        if not path.exists():
            partial = run_dir / f"{FILE_NAME}.{os.getpid()}.{threading.get_native_id()}"
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
            with contextlib.suppress(FileExistsError):  # another step was faster: its key counts
                os.link(partial, path)
            partial.unlink()
        return cls(path.read_bytes())

    def job(self, ids: list[int], job: bytes) -> bytes:
        """``job`` behind its signature, which covers the prompt's ids too."""
        return self._sign(_id_bytes(ids), job) + job

    def opened_job(self, ids: list[int], sealed: bytes) -> bytes:
        """The job. Raises ``InvalidRequest`` for one that no tokenizer step of this run made for these ids."""
        signature, job = sealed[:SIGNATURE_BYTES], sealed[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(_id_bytes(ids), job)):
            raise _stranger("job", "engine")
        return job

    def chunk(self, words: IntArray) -> IntArray:
        """A response's words behind their signature."""
        return np.concatenate([np.frombuffer(self._sign(words.tobytes()), dtype=np.int32), words])

    def opened_chunk(self, sealed: IntArray) -> IntArray:
        """The words. Raises ``InvalidRequest`` for those that no engine step of this run made."""
        words = sealed[SIGNATURE_WORDS:]
        if not hmac.compare_digest(sealed[:SIGNATURE_WORDS].tobytes(), self._sign(words.tobytes())):
            raise _stranger("chunk", "detokenizer")
        return words

    def _sign(self, *parts: bytes) -> bytes:
        digest = hashlib.blake2b(key=self._key, digest_size=SIGNATURE_BYTES)
        for part in parts:
            digest.update(part)
        return digest.digest()


def _id_bytes(ids: list[int]) -> bytes:
    return len(ids).to_bytes(8, "little") + np.array(ids, dtype=np.int32).tobytes()


def _stranger(what: str, step: str) -> InvalidRequest:
    return InvalidRequest(what, f"the model {step!r} is an inner step of qwen and takes no requests; send it to qwen")
