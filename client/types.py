"""The types that callers pass and receive. Plain frozen data; no transport, no Triton."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, TypeGuard

from contract.errors import InvalidRequest

FinishReason = Literal["stop", "length", "cancelled", "error", "repetition", "tool_calls"]
Prompt = str | Sequence[Mapping[str, Any]] | Sequence[int]  # raw text, OpenAI chat messages, or token ids
TopLogprobs = tuple[tuple[int, float], ...]  # (token id, natural log), best first


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Sampling settings of one request; ``None`` leaves a setting to the checkpoint's generation_config.json.

    ``n`` sequences are drawn with seeds ``seed, seed + 1, …``. ``top_logprobs`` needs ``logprobs``. ``logit_bias``
    (token id -> -100…100) is added to the logits. ``continue_final_message`` goes on with an assistant's last
    message. ``guide_type`` is ``json`` (any object), ``json_schema``, ``regex``, ``ebnf_grammar`` or
    ``structural_tag``; ``guide`` the schema, pattern, grammar or tag, left out with ``guide_optional`` where the engine
    cannot enforce it; with ``guide_complete`` the answer is whole within ``max_tokens``.
    ``repetition_detection`` (max_pattern_size, min_pattern_size, min_count, as vLLM names them) ends an answer that
    repeats itself, with ``finish_reason`` "repetition". ``tools`` are OpenAI tool definitions (messages only). What
    the engine cannot honour is refused, never ignored.
    """

    # options: begin
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    min_tokens: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    include_stop: bool = False
    bad_words: Sequence[str] = ()
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: Sequence[int] | None = None
    repetition_detection: Sequence[int] = ()
    ignore_eos: bool = False
    n: int = 1
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    prompt_top_logprobs: int = 0
    return_prompt_ids: bool = False
    return_end_token: bool = False
    guide_type: str = ""
    guide: str = ""
    guide_optional: bool = False
    guide_complete: bool = False
    truncate_prompt_tokens: int | None = None
    truncation_side: str = "left"
    tools: Sequence[Mapping[str, Any]] = ()
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    parse_special: bool = False
    resume_ids: Sequence[int] = ()
    priority: int | None = None
    lora_name: str = ""
    cache_salt: str = ""
    # options: end

    def given(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """One message of a stream. ``text`` may be empty while ``token_ids`` is not (half a character).

    ``completion_tokens`` counts this sequence's tokens so far, the end token included. ``finish_reason`` is set on a
    sequence's last chunk only. ``logprobs`` has one natural log per token id, or is empty.
    """

    text: str
    finish_reason: FinishReason | None = None
    token_ids: tuple[int, ...] = ()
    completion_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    chunk_index: int = 0
    sequence_index: int = 0
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[TopLogprobs, ...] = ()
    prompt_ids: tuple[int, ...] = ()  # on a sequence's first chunk, with ``Options.return_prompt_ids``
    prompt_logprobs: tuple[float, ...] = ()  # from the second token on, in order, possibly over several chunks
    prompt_top_logprobs: tuple[TopLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished sequence."""

    text: str
    finish_reason: FinishReason
    completion_tokens: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[TopLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """A whole answer: ``n`` choices in order of their index, and the engine's own token counts."""

    request_id: str
    choices: tuple[Completion, ...]
    prompt_tokens: int
    cached_tokens: int = 0
    prompt_ids: tuple[int, ...] = ()
    prompt_logprobs: tuple[float, ...] = ()
    prompt_top_logprobs: tuple[TopLogprobs, ...] = ()

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def finish_reason(self) -> FinishReason:
        return self.choices[0].finish_reason

    @property
    def completion_tokens(self) -> int:
        """Over all choices."""
        return sum(choice.completion_tokens for choice in self.choices)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Bounds in seconds; ``None`` is none. A request that passes one is stopped on the server too.

    An answer that comes whole (``generate`` with n = 1) has no first token to wait for: only ``total`` bounds it."""

    connect: float | None = 5.0
    first_token: float | None = 120.0
    between_chunks: float | None = 60.0
    total: float | None = 3600.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not (_seconds(value) and value > 0):
                raise ValueError(f"timeouts: {name}={value!r}: give seconds above 0, or None for no bound")


class Bounds:
    """``Timeouts.total`` over all attempts of one request: the clock starts with the first one."""

    __slots__ = ("_started", "_total")

    def __init__(self, timeouts: Timeouts) -> None:
        self._total, self._started = timeouts.total, 0.0

    def start(self) -> None:
        self._started = self._started or time.monotonic()

    def left(self) -> float | None:
        """Seconds, 0 at least; ``None``: no bound."""
        return None if self._total is None else max(0.0, self._started + self._total - time.monotonic())

    def allow(self, delay: float) -> bool:
        """Whether another attempt may begin after ``delay`` seconds."""
        left = self.left()
        return left is None or delay < left


@dataclass(frozen=True, slots=True)
class Retry:
    """When nothing has arrived yet: up to ``attempts`` tries on a full queue, a dead engine or a refused connection.

    Waits ``backoff`` seconds, doubled each time up to ``longest``, with jitter; a server's Retry-After is obeyed. One
    that has answered before is waited for beyond the attempts, for ``patience`` seconds with a try each second: it may
    be restarting, which takes a 7B engine on a GPU about 40 seconds.
    """

    attempts: int = 3
    backoff: float = 0.2
    longest: float = 10.0
    patience: float = 120.0

    def __post_init__(self) -> None:
        attempts: Any = self.attempts
        if not isinstance(attempts, Integral) or attempts < 1:
            raise ValueError(f"retry: attempts={attempts!r}: give a whole number of at least 1")
        for name in ("backoff", "longest", "patience"):
            if not _seconds(value := getattr(self, name)):
                raise ValueError(f"retry: {name}={value!r}: give seconds, 0 or more")


def _seconds(value: Any) -> bool:
    """What the system's clocks can wait for: neither NaN nor infinity."""
    return not isinstance(value, bool) and isinstance(value, Real) and 0 <= float(value) <= threading.TIMEOUT_MAX


def is_ids(prompt: Prompt) -> TypeGuard[Sequence[int]]:
    """Token ids rather than messages or text. Raises ``InvalidRequest`` for what is none of the three."""
    if isinstance(prompt, str):
        return False
    if isinstance(prompt, (bytes, Mapping)) or not (hasattr(prompt, "__getitem__") and hasattr(prompt, "__len__")):
        problem = f"{type(prompt).__name__} is not a prompt; give text, a list of messages or a list of token ids"
        raise InvalidRequest("prompt", problem)
    return len(prompt) > 0 and hasattr(prompt[0], "__index__")  # NumPy's integers are no ``int``


NO_RETRY = Retry(attempts=1)
