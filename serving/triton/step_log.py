"""The log of a model's process: one line for each message, whatever text of a caller's the message contains."""

from __future__ import annotations

import logging
import re

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class OneLine(logging.Formatter):
    """A request's id may hold anything over gRPC: no line of its own, no command to the terminal that shows the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _CONTROL.sub(lambda found: repr(found[0])[1:-1], super().formatMessage(record))


def start(name: str) -> None:
    """Log to stderr, which Triton passes on."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine(f"%(asctime)s {name} %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)
