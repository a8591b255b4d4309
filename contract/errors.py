"""Every error the serving layer raises on purpose.

ServingError
├── InvalidRequest        the caller's field is wrong                       INVALID_ARG   HTTP 400
│   ├── Unsupported       the loaded engine cannot honour the field         UNSUPPORTED   HTTP 400
│   └── DuplicateId       a request with this id is running                 ALREADY_EXISTS HTTP 409
├── Overloaded            the queue is full: try again later                UNAVAILABLE   HTTP 429
├── EngineDead            the runtime is gone: the process will restart     UNAVAILABLE   HTTP 503
└── EngineDirectoryError  ENGINE_DIR is missing, damaged or does not fit this machine  (start-up)

A message of the first group always reads ``field: what was wrong, the value, what to do`` so that a gateway can name
the field by splitting at the first colon.
"""

from __future__ import annotations

MAX_SHOWN = 80  # characters of a bad value that an error repeats


def shown(value: object) -> str:
    """A bad value as an error shows it: its ``repr``, cut so that a 1 MB prompt does not come back as a 1 MB error."""
    text = repr(value[: MAX_SHOWN * 2] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


class ServingError(Exception):
    """Root of the tree above. ``triton_code`` is the name of a ``TritonError`` code."""

    triton_code = "INTERNAL"


class InvalidRequest(ServingError):
    """``field: problem``; raised before the request costs engine time."""

    triton_code = "INVALID_ARG"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class Unsupported(InvalidRequest):
    triton_code = "UNSUPPORTED"


class DuplicateId(InvalidRequest):
    triton_code = "ALREADY_EXISTS"


class Overloaded(ServingError):
    triton_code = "UNAVAILABLE"


class EngineDead(ServingError):
    triton_code = "UNAVAILABLE"


class EngineDirectoryError(ServingError):
    """One line: what is wrong with ENGINE_DIR and what to type."""


class BuildError(Exception):
    """Planning, building or verifying an engine failed. One line: what was wrong, the value, what to do."""
