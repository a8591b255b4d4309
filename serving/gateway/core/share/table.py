"""What the workers know of each other's load: one small mapped file in the gateway's run directory.

Per tenant one virtual counter: the tokens it was given, in the sense of start-time fair queueing (Goyal, Vin and Cheng,
SIGCOMM 1996; per token as in "Fairness in Serving Large Language Models", OSDI 2024). Per worker one row that only this
worker writes: how many sequences of each tenant wait, with how many prompt tokens, and how many are at the engine.
Readers add up the rows, so a worker that dies takes its own numbers with it as soon as its successor takes over the
row.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

TENANTS = 4096  # counters; users are hashed to them
FRESH_SECONDS = 0.1  # a worker that has not looked for this long is not waited for
RECENT_SECONDS = 60.0  # a tenant counts as present for this long after its last request
_VIRTUAL, _LAST, _LAST_AT, _OTHER, _OTHER_AT = range(5)
_HEADER = 8
_PID, _FLIGHT, _WAITING, _HEAD, _ORDER, _LOOKED, _UNREAD, _UNREAD_LONG, _LONG = range(9)
_ROW_HEADER = 16
# after the row's header: four parts with one entry per tenant
_OF_WAITING, _OF_FLIGHT, _OF_PROMPTS, _OF_PLEDGED = (_ROW_HEADER + part * TENANTS for part in range(4))
_ROW = _ROW_HEADER + 4 * TENANTS


class ShareTable:
    """Doubles throughout. Every method but ``locked`` needs the lock; nothing here blocks while holding it."""

    def __init__(self, path: Path | None, rows: int) -> None:
        """``path``: ``None`` for a worker that is alone. ``rows``: most workers at a time."""
        self._starts = [_HEADER + TENANTS + row * _ROW for row in range(rows)]
        size = 8 * (_HEADER + TENANTS + rows * _ROW)
        self._file = -1
        if path is not None:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            os.posix_fallocate(self._file, 0, size)  # or a disk that fills up later would kill writers by SIGBUS
        self._words = memoryview(mmap.mmap(self._file, size)).cast("d")
        with self.locked():
            self._own = self._claim()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        if self._file < 0:
            yield
            return
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _claim(self) -> int:
        """The row of a worker that is gone, cleared."""
        free = next((at for at in self._starts if not _alive(int(self._words[at + _PID]))), None)
        at = min(self._starts, key=lambda at: self._words[at + _LOOKED]) if free is None else free
        self._words[at : at + _ROW] = memoryview(bytes(8 * _ROW)).cast("d")
        self._words[at + _PID] = os.getpid()
        return at

    # counters, in tokens
    def counter(self, tenant: int) -> float:
        """What the tenant was given."""
        return self._words[_HEADER + tenant]

    def rank(self, tenant: int) -> float:
        """What it was given and is about to be given: the smallest is next."""
        return self.counter(tenant) + self._sum(_OF_PLEDGED + tenant)

    def arrive(self, tenant: int, sequences: int, prompt: int, now: float) -> None:
        """A request begins to wait. A tenant that was idle gets no credit for that time: its counter starts where the
        others' are."""
        words = self._words
        if not self.waiting(tenant) + self.flight(tenant):
            words[_HEADER + tenant] = max(words[_HEADER + tenant], words[_VIRTUAL])
        if words[_LAST] != tenant:
            words[_OTHER], words[_OTHER_AT] = words[_LAST], words[_LAST_AT]
            words[_LAST] = tenant
        words[_LAST_AT] = now
        self._wait(tenant, sequences, prompt)

    def give_up(self, tenant: int, sequences: int, prompt: int) -> None:
        self._wait(tenant, -sequences, -prompt)

    def begin(self, tenant: int, sequences: int, prompt: int, pledged: float, *, is_long: bool = False) -> None:
        """Waiting sequences go to the engine: ``prompt`` tokens to read, ``pledged`` in all as far as we know."""
        self._wait(tenant, -sequences, -prompt)
        self._fly(tenant, sequences, pledged)
        self.unread(prompt, is_long=is_long)
        self._words[_VIRTUAL] = max(self._words[_VIRTUAL], self.counter(tenant))

    def end(self, tenant: int, sequences: int, pledged: float, used: float) -> None:
        """Sequences at the engine have ended and cost ``used`` tokens."""
        self._fly(tenant, -sequences, -pledged)
        self._words[_HEADER + tenant] += used

    def unread(self, tokens: int, *, is_long: bool) -> None:
        """The engine has to read one prompt more; with negative ``tokens`` it has read one."""
        self._words[self._own + (_UNREAD_LONG if is_long else _UNREAD)] += tokens
        if is_long:
            self._words[self._own + _LONG] += 1 if tokens > 0 else -1

    def _wait(self, tenant: int, sequences: int, prompt: int) -> None:
        self._words[self._own + _WAITING] += sequences
        self._words[self._own + _OF_WAITING + tenant] += sequences
        self._words[self._own + _OF_PROMPTS + tenant] += prompt

    def _fly(self, tenant: int, sequences: int, pledged: float) -> None:
        self._words[self._own + _FLIGHT] += sequences
        self._words[self._own + _OF_FLIGHT + tenant] += sequences
        self._words[self._own + _OF_PLEDGED + tenant] += pledged

    # sums over all workers
    def _sum(self, offset: int) -> float:
        return sum(self._words[at + offset] for at in self._starts)

    def waiting(self, tenant: int | None = None) -> int:
        return int(self._sum(_WAITING if tenant is None else _OF_WAITING + tenant))

    def flight(self, tenant: int | None = None) -> int:
        return int(self._sum(_FLIGHT if tenant is None else _OF_FLIGHT + tenant))

    def waiting_prompts(self, tenant: int) -> int:
        """Prompt tokens of the requests that wait."""
        return int(self._sum(_OF_PROMPTS + tenant))

    def unread_tokens(self, *, with_long: bool) -> int:
        """Tokens of the prompts that the engine has but has not finished reading."""
        return int(self._sum(_UNREAD) + (self._sum(_UNREAD_LONG) if with_long else 0))

    @property
    def unread_long(self) -> int:
        """How many long prompts the engine is reading."""
        return int(self._sum(_LONG))

    def is_alone(self, tenant: int, now: float) -> bool:
        """Whether no other tenant has sent a request lately."""
        words = self._words
        seen = ((words[_LAST], words[_LAST_AT]), (words[_OTHER], words[_OTHER_AT]))
        return not any(who != tenant and at and now - at < RECENT_SECONDS for who, at in seen)

    # order among workers
    def publish(self, tenant: int, order: float, now: float) -> None:
        """The tenant this worker would serve next, and the order of its first request (0: none waits)."""
        at = self._own
        self._words[at + _HEAD], self._words[at + _ORDER], self._words[at + _LOOKED] = tenant, order, now

    def heads(self, now: float) -> list[tuple[int, float]]:
        """What other workers would serve next: tenant, and the order of its first request."""
        words = self._words
        return [
            (int(words[at + _HEAD]), words[at + _ORDER])
            for at in self._starts
            if at != self._own and words[at + _ORDER] and now - words[at + _LOOKED] < FRESH_SECONDS
        ]


def _alive(pid: int) -> bool:
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
