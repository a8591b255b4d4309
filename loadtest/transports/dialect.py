"""Which fields of a chat request an OpenAI-compatible server accepts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Dialect:
    """``length`` is the name of the field that bounds an answer's length. ``extensions`` are the fields that OpenAI's
    API does not have: ``ignore_eos`` and ``continuous_usage_stats``."""

    length: str = "max_tokens"
    seed: bool = True
    stream_options: bool = True
    extensions: bool = True

    def fields(self, max_tokens: int, seed: int, *, ignore_eos: bool) -> dict[str, Any]:
        """The part of a request's body in which dialects differ."""
        body: dict[str, Any] = {self.length: max_tokens}
        if self.seed:
            body["seed"] = seed
        if self.stream_options:
            body["stream_options"] = {"include_usage": True}
            if self.extensions:
                body["stream_options"]["continuous_usage_stats"] = True
        if self.extensions and ignore_eos:
            body["ignore_eos"] = True
        return body


DIALECTS = (  # in the order in which they are tried; the first has all that the figures can use
    Dialect(),
    Dialect(extensions=False),
    Dialect("max_completion_tokens", extensions=False),
    Dialect(seed=False, extensions=False),
    Dialect(seed=False, stream_options=False, extensions=False),
)
