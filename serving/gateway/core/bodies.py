"""Bounds the memory of all request bodies of a worker; incomplete bodies give way to complete ones."""

from __future__ import annotations

from types import TracebackType

from serving.gateway.schema.errors import ApiError

BODIES = 32  # bodies of the greatest allowed length that one worker may hold
SMALL = 64 * 1024  # bytes; the memory of smaller bodies is bounded by the number of connections


class BodyMemory:
    """Bytes of the bodies that arrive or wait for their answers."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._arriving: dict[HeldBody, None] = {}  # in the order in which they began

    def begin(self) -> HeldBody:
        body = HeldBody(self)
        self._arriving[body] = None
        return body

    def take(self, body: HeldBody, size: int) -> None:
        """Raises ``ApiError`` 429 when whole bodies fill the memory."""
        while self._held + size > self._most and body.size + size > SMALL:
            longest = next((b for b in self._arriving if b is not body and b.size > SMALL), None)
            if longest is None:
                problem = "the requests in progress fill the memory for bodies; try again later, or send a smaller one"
                raise ApiError(429, problem, code="too_many_requests", retry_after=5, close=True)
            longest.evict()
        self._held += size

    def arrived(self, body: HeldBody) -> None:
        self._arriving.pop(body, None)

    def give_back(self, size: int) -> None:
        self._held -= size


class HeldBody:
    """One body's share of the memory. Leave the ``with`` when neither the body nor its parsed form is needed."""

    __slots__ = ("_memory", "is_evicted", "size")

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self.size, self.is_evicted = 0, False

    def grow(self, size: int) -> None:
        """Raises ``ApiError``."""
        if self.is_evicted:
            problem = f"only {self.size} bytes of the body had come when others needed its place; send it faster"
            raise ApiError(408, problem, code="timeout", close=True)
        self._memory.take(self, size)
        self.size += size

    def arrived(self) -> None:
        self._memory.arrived(self)

    def evict(self) -> None:
        self.is_evicted = True
        self._memory.arrived(self)
        self._memory.give_back(self.size)

    def __enter__(self) -> HeldBody:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._memory.arrived(self)
        if not self.is_evicted:
            self._memory.give_back(self.size)
            self.size = 0
