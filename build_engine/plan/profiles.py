"""Context profiles: the job decides how much context an engine is built for, because unused context costs memory.

Up to the model's native 32,768 tokens only the use of the KV pool changes. Beyond that, YaRN stretches the positions.
It is static in these engines and may cost quality on short texts, so long contexts get an engine of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from build_engine.rope import kind_of, positions_of, spelled_out
from contract.errors import BuildError


@dataclass(frozen=True, slots=True)
class Profile:
    name: str
    job: str
    max_seq_len: int  # prompt + output, tokens
    max_batch_size: int  # sequences decoded at once, before the memory of the GPU lowers it


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("chat", "dialogue, questions, short tools", 8192, 256),
        Profile("summary", "summaries and analysis of reports", 32768, 128),
        Profile("audit", "audit, legal files, several documents at once", 65536, 64),
        Profile("book", "a whole book", 131072, 32),
    )
}


@dataclass(frozen=True, slots=True)
class Speed:
    """What an engine is tuned for, apart from its context. ``None`` leaves a limit to the plan.

    ``plugins`` are ``trtllm-build`` options for FP8 engines on Hopper, the only GPUs that have them."""

    name: str
    job: str
    max_batch_size: int | None = None
    max_num_tokens: int | None = None
    plugins: tuple[str, ...] = ()


SPEEDS = {
    speed.name: speed
    for speed in (
        Speed("balanced", "many users, prompts and answers of all lengths"),
        Speed(
            "latency",
            "few users at once, each token as early as possible",
            max_batch_size=16,
            plugins=("--gemm_swiglu_plugin", "fp8", "--low_latency_gemm_plugin", "fp8"),
        ),
        Speed(
            "throughput",
            "batches and busy servers, tokens per GPU hour",
            max_batch_size=512,
            max_num_tokens=16384,
            plugins=("--gemm_swiglu_plugin", "fp8"),
        ),
    )
}


def by_speed(name: str) -> Speed:
    if name not in SPEEDS:
        raise BuildError(f"profile {name!r} is not one of {', '.join(SPEEDS)}")
    return SPEEDS[name]


def by_context(context: str) -> Profile:
    """A profile by name or by tokens (``12000``): a number gets the batch size of the next larger profile."""
    if context in PROFILES:
        return PROFILES[context]
    try:
        tokens = int(context.replace(",", "").replace("_", ""))
    except ValueError:
        raise BuildError(f"context {context!r} is neither a number nor one of {', '.join(PROFILES)}") from None
    largest = max(profile.max_seq_len for profile in PROFILES.values())
    if not 2 <= tokens <= largest:
        raise BuildError(f"context {tokens} is out of range: choose 2 to {largest} tokens, prompt and answer together")
    like = next(profile for profile in PROFILES.values() if profile.max_seq_len >= tokens)
    if like.max_seq_len == tokens:
        return like
    return Profile(f"{tokens}", f"like {like.name}", tokens, like.max_batch_size)


def rope_scaling(max_seq_len: int, native: int) -> dict[str, Any] | None:
    """YaRN settings that reach ``max_seq_len``, or None within the model's ``native`` positions.

    The factor is the smallest whole one that reaches. ``original_max_position_embeddings`` must be given:
    TensorRT-LLM's default is 4096 (docs/tensorrt_llm_facts.md). Both spellings of the type, because Hugging Face
    changed it.
    """
    if max_seq_len <= native:
        return None
    factor = float(-(-max_seq_len // native))
    return {"type": "yarn", "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": native}


def with_yarn(config: dict[str, Any], max_seq_len: int) -> dict[str, Any]:
    """A model ``config.json`` for ``max_seq_len``: YaRN and the position table's size, or the config unchanged.

    Raises ``BuildError`` when the config already has a scaling of its own, which reaches less far."""
    if max_seq_len <= (reach := positions_of(config)):
        return config
    if kind_of(config) != "default":
        raise BuildError(
            f"context {max_seq_len} is more than the {reach} tokens of the rope_scaling in config.json: choose at most "
            "that, or pass the original checkpoint"
        )
    scaling = rope_scaling(max_seq_len, reach) or {}
    return {**spelled_out(config), "rope_scaling": scaling, "max_position_embeddings": int(reach * scaling["factor"])}
