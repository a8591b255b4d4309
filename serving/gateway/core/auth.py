"""API keys: kept as hashes, compared in constant time, each with a token budget per minute.

All workers share the budgets through one small file in the gateway's private run directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from contract import user_text
from serving.gateway.schema.errors import ApiError
from serving.gateway.settings import GatewaySettings, GatewaySettingsError

_LINE = re.compile(r"(\S+)\s+(?:sha256:([0-9a-fA-F]{64})|(\S+))(?:\s+(\d+))?")
_RECORD = struct.Struct("<dd")  # tokens left, as of when (monotonic seconds; all processes share that clock)


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    digest: bytes
    per_minute: int
    at: int  # index of its record in the budget file

    def salt(self, given: str) -> str:
        """The prefix cache's salt, which nobody can compute without this key."""
        return hmac.digest(self.digest, f"cache_salt {given}".encode(), "sha256").hex()


def load(settings: GatewaySettings) -> tuple[Key, ...]:
    """Keys of the environment and of the file. Raises ``GatewaySettingsError`` naming the line, never the key."""
    plain = [k.strip() for k in settings.api_keys.split(",") if k.strip()]
    keys = [Key(f"key{i}", _digest(k), settings.tokens_per_minute, i) for i, k in enumerate(plain)]
    if settings.api_keys_file:
        keys += _of_file(Path(settings.api_keys_file), settings.tokens_per_minute, len(keys))
    if settings.api_keys_file and not keys:
        raise GatewaySettingsError(
            f"GATEWAY_API_KEYS_FILE={settings.api_keys_file}: contains no key; add one or unset the variable"
        )
    return tuple(keys)


def _of_file(path: Path, per_minute: int, first: int) -> list[Key]:
    try:
        lines = user_text.read(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GatewaySettingsError(f"GATEWAY_API_KEYS_FILE={path}: cannot be read ({error})") from None
    keys: list[Key] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise GatewaySettingsError(
                f"{path}:{number}: write `NAME KEY` or `NAME sha256:HEX`, optionally followed by a token limit"
            )
        name, digest, plain, limit = match.groups()
        hashed = bytes.fromhex(digest) if digest else _digest(plain)
        keys.append(Key(name, hashed, int(limit) if limit else per_minute, first + len(keys)))
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Keys:
    """Checks who may call, and keeps each key's token budget."""

    def __init__(self, keys: tuple[Key, ...], budgets: Path | None) -> None:
        self._keys = keys
        self._file = -1
        if budgets and any(key.per_minute for key in keys):
            self._file = os.open(budgets, os.O_RDWR | os.O_CREAT, 0o600)

    def authenticate(self, authorization: str) -> Key | None:
        """The caller's key; ``None`` when none is needed. Compares every key. Raises ``ApiError``."""
        if not self._keys:
            return None
        scheme, _, given = authorization.partition(" ")
        digest, found = _digest(given.strip()), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None or scheme.lower() != "bearer":
            problem = "the API key is not valid" if authorization else "an API key is required"
            raise ApiError(401, f"{problem}; send the header `Authorization: Bearer KEY`", code="invalid_api_key")
        return found

    def admit(self, key: Key | None, tokens: int = 0) -> None:
        """Reserve ``tokens`` for a request that begins. Raises ``ApiError`` 429 while the key's budget is exhausted.

        A request may be larger than what is left: otherwise none could exceed a minute's budget."""
        if key and key.per_minute and (left := self._charge(key, tokens, admitting=True)) <= 0:
            wait = int(-left / key.per_minute * 60) + 1
            raise ApiError(
                429, f"this key's {key.per_minute} tokens per minute are exhausted; try again in {wait} s",
                code="rate_limit_exceeded", retry_after=wait,
            )  # fmt: skip

    def charge(self, key: Key | None, tokens: int) -> None:
        """Deduct what an answer used beyond its reservation; negative: give back what it did not use.

        A budget may go negative: a started answer is never cut off."""
        if key and key.per_minute and tokens:
            self._charge(key, tokens)

    def _charge(self, key: Key, tokens: int, *, admitting: bool = False) -> float:
        """Deduct ``tokens``; returns what was left before. ``admitting``: an exhausted budget stays as it is."""
        start = key.at * _RECORD.size
        fcntl.lockf(self._file, fcntl.LOCK_EX, _RECORD.size, start)
        try:
            now, raw = time.monotonic(), os.pread(self._file, _RECORD.size, start)
            left, then = _RECORD.unpack(raw) if len(raw) == _RECORD.size and any(raw) else (float(key.per_minute), now)
            left = min(key.per_minute, left + (now - then) * key.per_minute / 60)
            after = left if admitting and left <= 0 else min(key.per_minute, left - tokens)
            os.pwrite(self._file, _RECORD.pack(after, now), start)
            return float(left)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, _RECORD.size, start)
