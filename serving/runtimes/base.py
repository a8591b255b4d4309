"""The runtime protocol: token ids in, token-id deltas out. Thread-safe, and independent of Triton.

A runtime module exposes ``create(engine, options, on_step, on_death) -> Runtime`` and blocks in it until the engine can
take requests. After that it calls ``on_step`` once per engine step with the deltas of all sequences, always from the
same thread; ``on_step`` only enqueues them and returns at once. Every submitted sequence ends with exactly one delta
that has a ``finish_reason``, unless ``on_death`` was called. ``on_death(reason)`` is called at most once, when no
further delta will come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, get_args

from contract.fields import FIELDS
from contract.finish import FinishReason
from contract.gpus import MEMORY_FRACTION
from contract.prompt_part import PromptPart
from contract.sampling import GuideType, Sampling


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One sequence for a runtime. ``sequence_id`` is unique among the running sequences of this process.

    ``resume_ids`` are output of an earlier attempt, here or elsewhere. They count as output everywhere (``max_tokens``
    and ``min_tokens``, penalties, grammar, the position of the seed), and the deltas bring only what follows them."""

    sequence_id: int
    input_ids: Sequence[int]
    sampling: Sampling
    priority: int = 0  # higher is sooner
    lora_name: str = ""
    cache_salt: str = ""  # cached prefixes are shared among equal ones only
    seeded: bool = True  # by the caller; a seed that we drew need not be repeatable
    resume_ids: Sequence[int] = ()
    index: int = 0  # among the n sequences of one request


LEAST = -9999.0  # OpenAI's word for "very unlikely"


def finite(log_probability: float) -> float:
    """``LEAST`` for the -inf of a token that a guide rules out, and for NaN: JSON has neither."""
    return max(LEAST, log_probability)  # in this order, since no comparison with NaN is true


class EndToken(NamedTuple):
    """The end or stop token that ended a sequence. ``logprob`` and ``top``: as an entry of ``SequenceDelta``'s."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class SequenceDelta(NamedTuple):
    """What one engine step added to one sequence.

    ``token_ids`` never holds an end or stop token. ``counted`` is how many tokens were generated in this step, the
    end/stop token included: completion_tokens is the sum of ``counted``, so usage is the same on every runtime.
    ``logprobs`` has one natural-log probability per entry of ``token_ids`` or is empty. ``top_logprobs`` likewise, each
    entry ``((token_id, logprob), …)`` best first. ``prompt`` brings scores of the prompt, in order and before the first
    token or with it, when ``Sampling.prompt_logprobs`` asks for them. ``finish_reason`` is set on the sequence's last
    delta only, ``error`` only together with ``finish_reason == "error"``. ``scheduled`` comes with the first token.
    ``end`` is the end or stop token of an answer that one ended; an engine that keeps it to itself leaves it out.
    """

    sequence_id: int
    token_ids: Sequence[int]
    counted: int
    finish_reason: FinishReason | None = None
    logprobs: Sequence[float] = ()
    top_logprobs: Sequence[tuple[tuple[int, float], ...]] = ()
    cached_tokens: int = 0  # prompt tokens found in the prefix cache; meaningful on the first delta
    error: str = ""
    prompt: PromptPart | None = None
    scheduled: float = 0.0  # ``time.monotonic`` when the engine took the sequence up; 0: it does not say
    end: EndToken | None = None


OnStep = Callable[[list[SequenceDelta]], None]
OnDeath = Callable[[str], None]

# Names a runtime may list in ``Runtime.capabilities``; a request that needs one it lacks is refused before it is
# submitted. Fields without a capability (max_tokens, temperature, top_p, …) are required of every runtime. A runtime
# lists what it honours, never "all but": a new field must not be taken for honoured where nobody reads it.
GUIDES = frozenset(f"guide:{kind}" for kind in get_args(GuideType))
CAPABILITIES = frozenset(f.capability for f in FIELDS if f.capability) | GUIDES


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """What can be tuned without building a new engine. ``None`` leaves the choice to the runtime."""

    max_streams: int = 256  # sequences decoded at once
    kv_cache_bytes: int | None = None
    gpu_memory_fraction: float = MEMORY_FRACTION  # vLLM: of all memory; TensorRT-LLM: of what the weights leave
    step_ms: float = 15.0  # simulated only
    prefill_ms_per_token: float = 0.0  # simulated only
    fault: str = ""  # simulated only: see serving/runtimes/simulated.py
    threads: int = 0  # CPU runtimes: 0 leaves it to the library
    exact: bool = False  # CPU runtimes: FP32 arithmetic and KV, so that an answer depends on its request alone
    speculate: bool = True  # CPU runtimes: drafts for a stream that is alone, where the arithmetic makes them cheap


@dataclass(frozen=True, slots=True)
class RuntimeLimits:
    """What the loaded engine can take. ``max_seq_len`` is prompt + output tokens."""

    max_seq_len: int
    max_input_len: int
    vocab_size: int
    max_streams: int


@dataclass(frozen=True, slots=True)
class RuntimeStats:
    """A snapshot; counters only grow."""

    running: int = 0
    waiting: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    drafted_tokens: int = 0  # speculative decoding: proposed, and of those taken
    accepted_tokens: int = 0
    preemptions: int = 0
    kv_block_tokens: int = 0  # 0: unknown


class Runtime(Protocol):
    @property
    def limits(self) -> RuntimeLimits: ...

    @property
    def capabilities(self) -> frozenset[str]: ...

    def submit(self, request: EngineRequest) -> None:
        """Queue one sequence. Never blocks on the engine. The caller has checked ids, lengths and capabilities.

        Raises ``InvalidRequest`` for what only the engine can see, unless that takes long (a grammar): then it comes as
        the sequence's last delta. A guide that is ``optional`` is left out instead. Raises ``EngineUnavailable``."""

    def abort(self, sequence_id: int) -> None:
        """Free the sequence's batch slot and KV blocks soon; its last delta is ``cancelled``. Ignores unknown ids."""

    def stats(self) -> RuntimeStats: ...

    def close(self) -> None:
        """Stop within 20 s, child processes included. Idempotent."""
