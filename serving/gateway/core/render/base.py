"""What an endpoint has to provide to put its own JSON around the engine's output.

Every renderer reads the same ``ChoiceUpdate``s. To add an endpoint: one ``StreamRenderer``, one ``BodyRenderer``, and a
row in ``api/endpoints.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from serving.gateway.core.choices import ChoiceUpdate
from serving.gateway.core.plan import GenerationPlan
from serving.gateway.schema.errors import ApiError

KEEP_ALIVE = b": keep-alive\n\n"  # an SSE comment: every parser skips it


class Usage(NamedTuple):
    """Tokens, as the engine counts them. ``cached``: prompt tokens found in the prefix cache."""

    prompt: int
    completion: int
    cached: int


class AnswerHeader(NamedTuple):
    """What an answer says about itself. ``created`` in Unix seconds."""

    id: str
    model: str
    created: int
    fingerprint: str


class Renderer:
    """What streams and bodies have in common."""

    def kept(self, used: Usage) -> dict[str, Any]:
        """What is stored of a finished answer: nothing, unless the endpoint stores answers."""
        return {}


class StreamRenderer(Renderer, ABC):
    """The server-sent events of one streamed answer. Each method returns complete events, or ``b""`` for none.

    ``plain`` (index, text, finish reason), where present, replaces ``update`` for answers of text without extras: no
    ``ChoiceUpdate`` is built then.
    """

    plain: Callable[[int, str, str | None], bytes] | None = None

    @abstractmethod
    def __init__(self, plan: GenerationPlan, header: AnswerHeader) -> None: ...

    @abstractmethod
    def update(self, index: int, update: ChoiceUpdate, used: Usage) -> bytes: ...

    @abstractmethod
    def end(self, used: Usage) -> bytes: ...

    @abstractmethod
    def error(self, error: ApiError) -> bytes: ...


class BodyRenderer(Renderer, ABC):
    """The body of an answer that is not streamed."""

    @abstractmethod
    def __init__(self, plan: GenerationPlan, header: AnswerHeader) -> None: ...

    @abstractmethod
    def update(self, index: int, update: ChoiceUpdate) -> None: ...

    @abstractmethod
    def body(self, used: Usage) -> bytes: ...
