"""Stored responses: ``previous_response_id``, ``item_reference``, GET and DELETE.

They are files in the gateway's private run directory: all workers see them, and they are deleted when the gateway ends.
A file's name is a hash of its owner and id, so no key can reach another key's files, and no id is used as a path. The
file of an item holds the name of its response's file. File times are those of ``time.monotonic``, which all workers
share and nobody can set. Every call blocks on the file system, so call it in a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import orjson

JsonObject = dict[str, Any]
SWEEP_SECONDS = 1.0  # between two looks at all files, at least
POINTER_BYTES = 4096  # what a small file takes


class ResponseStore:
    """``most``: bytes, of all workers together. ``seconds``: how long a response is kept."""

    def __init__(self, directory: Path, most: int, seconds: float) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory, self._most, self._seconds = directory, most, seconds
        self._swept = 0.0

    def save(self, owner: str, response: JsonObject, conversation: list[JsonObject]) -> None:
        """``conversation``: all items up to the response's own, which are its ``output``."""
        name = self._name(owner, response["id"])
        self._write(name, orjson.dumps({"response": response, "items": [*conversation, *response["output"]]}))
        for item in response["output"]:
            self._write(self._name(owner, item["id"]), name.encode())
        self._sweep()

    def response(self, owner: str, response_id: str) -> JsonObject | None:
        kept = self._kept(self._name(owner, response_id))
        return dict(kept["response"]) if kept else None

    def conversation(self, owner: str, response_id: str) -> list[JsonObject] | None:
        """All items up to the end of the response."""
        kept = self._kept(self._name(owner, response_id))
        return list(kept["items"]) if kept else None

    def item(self, owner: str, item_id: str) -> JsonObject | None:
        pointer = self._read(self._name(owner, item_id))
        kept = self._kept(pointer.decode()) if pointer and len(pointer) == 64 else None
        return next((item for item in kept["response"]["output"] if item["id"] == item_id), None) if kept else None

    def delete(self, owner: str, response_id: str) -> bool:
        """Its items become unreachable with it. False when there was no such response."""
        try:
            (self._directory / self._name(owner, response_id)).unlink()
        except FileNotFoundError:
            return False
        return True

    @staticmethod
    def _name(owner: str, which: str) -> str:
        return hashlib.sha256(f"{owner}\0{which}".encode()).hexdigest()

    def _kept(self, name: str) -> JsonObject | None:
        raw = self._read(name)
        return orjson.loads(raw) if raw and raw.startswith(b"{") else None

    def _read(self, name: str) -> bytes | None:
        path = self._directory / name
        try:
            if path.stat().st_mtime + self._seconds < time.monotonic():
                return None
            return path.read_bytes()
        except OSError:  # gone: deleted, or swept by another worker
            return None

    def _write(self, name: str, data: bytes) -> None:
        partial = self._directory / f"{name}.{os.getpid()}.{threading.get_native_id()}"
        partial.write_bytes(data)
        os.utime(partial, (time.monotonic(), time.monotonic()))
        partial.replace(self._directory / name)

    def _sweep(self) -> None:
        """Remove what is too old, then the oldest until the rest fits."""
        now = time.monotonic()
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        found = []
        for entry in os.scandir(self._directory):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                found.append((status.st_mtime, max(POINTER_BYTES, status.st_size), entry.path))
        total = sum(size for _, size, _ in found)
        for written, size, path in sorted(found):
            if total <= self._most and written + self._seconds >= now:
                return
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()
            total -= size
