"""The interface of both transports: open a stream, get each message as it arrives, and learn how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from loadtest.scenarios.base import Request

# (arrival time by time.monotonic(), output tokens of the stream so far) -> False to abandon the stream
OnMessage = Callable[[float, int], bool]


@dataclass(slots=True)
class StreamEnd:
    """What the server said at the end. ``completion_tokens`` are its own where it ``counted``, else one per message;
    ``left`` is set when the caller walked away."""

    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    counted: bool = False
    text: str = ""
    left: bool = False


class Transport(Protocol):
    name: str

    def stream(self, request: Request, on_message: OnMessage) -> StreamEnd:
        """Run one stream to its end. Raises ``TransportError``."""

    def close(self) -> None: ...
