"""Checks whether the loaded runtime can serve a request. No engine checks all of this by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from contract import context
from contract.chunks import Job
from contract.errors import InvalidRequest, Unsupported
from contract.fields import FIELDS
from contract.sampling import Sampling
from serving.runtimes.base import Runtime

# What a runtime that lacks the capability can simply leave out: the setting's neutral value.
_SETTINGS = {field.name for field in fields(Sampling)}
_NEUTRAL = {
    f.name: (f.capability, f.default) for f in FIELDS if f.capability and f.name in _SETTINGS and f.default is not None
}


def fit(job: Job, ids: Sequence[int], runtime: Runtime) -> Sampling:
    """The sampling settings to submit. Raises ``InvalidRequest``/``Unsupported`` naming the field."""
    sampling = _within_context(_supported(job, runtime), ids, runtime)
    _check_resumed(job.text.resume_ids, sampling.max_tokens, runtime)
    return sampling


def _supported(job: Job, runtime: Runtime) -> Sampling:
    sampling = job.sampling
    guide = sampling.guide
    if guide and guide.optional and f"guide:{guide.type}" not in runtime.capabilities:
        sampling = replace(sampling, guide=None)
    wanted = set(job.explicit)
    if sampling.guide:
        wanted.add(f"guide:{sampling.guide.type}")
    if sampling.logprobs:
        wanted.add("top_logprobs" if sampling.logprobs > 1 else "logprobs")
    if job.lora_name:
        wanted.add("lora")
    missing = sorted(wanted - runtime.capabilities)
    if missing:
        name = missing[0].replace("guide:", "guided_decoding_guide_type ").replace("lora", "lora_name")
        raise Unsupported(name, "the loaded engine cannot honour it; leave the field out or use another engine")
    # defaults of generation_config.json that this engine lacks (the caller did not ask for them by name)
    dropped: dict[str, Any] = {
        name: neutral
        for name, (capability, neutral) in _NEUTRAL.items()
        if capability not in runtime.capabilities and getattr(sampling, name) != neutral
    }
    return replace(sampling, **dropped) if dropped else sampling


def _within_context(sampling: Sampling, ids: Sequence[int], runtime: Runtime) -> Sampling:
    limits = runtime.limits
    left = context.room(limits, "text_input", len(ids), sampling.max_tokens)
    if ids and not 0 <= min(ids) <= max(ids) < limits.vocab_size:
        raise InvalidRequest("input_ids", f"ids must be between 0 and {limits.vocab_size - 1}; got {max(ids, key=abs)}")
    return sampling if sampling.max_tokens else replace(sampling, max_tokens=left)


def _check_resumed(ids: Sequence[int], max_tokens: int, runtime: Runtime) -> None:
    if not ids:
        return
    if len(ids) >= max_tokens:
        problem = (
            f"{len(ids)} tokens leave nothing of max_tokens = {max_tokens}; raise that, or take them as the answer"
        )
        raise InvalidRequest("resume_ids", problem)
    if not 0 <= min(ids) <= max(ids) < runtime.limits.vocab_size:
        last = runtime.limits.vocab_size - 1
        raise InvalidRequest("resume_ids", f"ids must be between 0 and {last}; got {max(ids, key=abs)}")


def reseeded(sampling: Sampling, index: int) -> Sampling:
    """Settings of sequence ``index`` of n, which differ only in the seed."""
    return replace(sampling, seed=(sampling.seed + index) % 2**64) if index else sampling
