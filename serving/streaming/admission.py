"""May this request run on this runtime? Decided before it costs anything; no engine checks all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from contract.chunks import Job
from contract.errors import InvalidRequest, Unsupported
from contract.sampling import Sampling
from serving.runtimes.base import Runtime

# capability -> the value that means "not used", for what a runtime without it can simply leave out
NEUTRAL: dict[str, float | int | tuple[int, ...] | None] = {
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "min_tokens": 0,
    "bad_words": (),
}


def fit(job: Job, ids: Sequence[int], runtime: Runtime) -> Sampling:
    """The sampling settings to submit. Raises ``InvalidRequest``/``Unsupported`` naming the field."""
    return _within_context(_supported(job, runtime), ids, runtime)


def _supported(job: Job, runtime: Runtime) -> Sampling:
    sampling = job.sampling
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
    neutral = {k: v for k, v in NEUTRAL.items() if k not in runtime.capabilities and getattr(sampling, k) != v}
    return replace(sampling, **neutral) if neutral else sampling  # type: ignore[arg-type]


def _within_context(sampling: Sampling, ids: Sequence[int], runtime: Runtime) -> Sampling:
    limits = runtime.limits
    room = limits.max_seq_len - len(ids)
    if len(ids) > limits.max_input_len or room < 1:
        longest = min(limits.max_input_len, limits.max_seq_len - 1)
        raise InvalidRequest(
            "text_input", f"the prompt has {len(ids)} tokens, this engine takes at most {longest}; shorten it"
        )
    if ids and not 0 <= min(ids) <= max(ids) < limits.vocab_size:
        raise InvalidRequest("input_ids", f"ids must be between 0 and {limits.vocab_size - 1}; got {max(ids, key=abs)}")
    if sampling.max_tokens > room:
        raise InvalidRequest(
            "max_tokens",
            f"{sampling.max_tokens} with a prompt of {len(ids)} tokens exceeds the context of {limits.max_seq_len} "
            f"tokens; use at most {room}",
        )
    return sampling if sampling.max_tokens else replace(sampling, max_tokens=room)


def reseeded(sampling: Sampling, index: int) -> Sampling:
    """Settings of sequence ``index`` of n: another seed, everything else alike."""
    return replace(sampling, seed=(sampling.seed + index) % 2**64) if index else sampling
