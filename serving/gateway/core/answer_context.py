"""What an answer needs from its worker process, and the times of its stages."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from client.channels import Channels
from client.grpc_aio import AioChannel
from serving.gateway.core.metrics import GatewayMetrics
from serving.gateway.core.share.scheduler import FairScheduler
from serving.gateway.core.token_logprobs import TokenText


@dataclass(frozen=True, slots=True)
class AnswerContext:
    channels: Channels[AioChannel]
    metrics: GatewayMetrics
    token_text: TokenText
    request_seconds: float
    first_token_seconds: float
    is_back: Callable[[], Awaitable[bool | None]]  # Triton, after a break; ``None``: nobody will start it again
    scheduler: FairScheduler


@dataclass(slots=True)
class AnswerTimes:
    """Monotonic seconds; 0: not yet."""

    arrived: float
    read: float = 0.0
    sent: float = 0.0  # to the engine
    first: float = 0.0
    chunk: float = field(default_factory=time.monotonic)  # the engine's latest message
