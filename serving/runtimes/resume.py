"""Continues the output of an earlier attempt, for engines that take token ids only as a prompt."""

from __future__ import annotations

from dataclasses import replace

from contract.errors import InvalidRequest, Unsupported
from serving.runtimes.base import EngineRequest


def as_prompt(request: EngineRequest, longest: int) -> EngineRequest:
    """``request`` with its ``resume_ids`` at the end of the prompt, and what counts output counting less.

    Greedy answers go on as they were, sampled ones with the same distribution. ``longest``: the engine's limit on
    prompts, in tokens. Raises ``Unsupported`` for a setting that would act differently on the rest of the answer."""
    made = len(request.resume_ids)
    if not made:
        return request
    if setting := _bound_to_output(request):
        raise Unsupported(
            "resume_ids", f"this engine reads them as part of the prompt, where {setting} does not see them; "
            "send the request again without them",
        )  # fmt: skip
    if (length := len(request.input_ids) + made) > longest:
        problem = (
            f"prompt and ids have {length} tokens, and this engine reads {longest}; send the request again without them"
        )
        raise InvalidRequest("resume_ids", problem)
    sampling = request.sampling
    sampling = replace(
        sampling, max_tokens=sampling.max_tokens - made, min_tokens=max(0, sampling.min_tokens - made)
    )  # fmt: skip
    return replace(request, input_ids=[*request.input_ids, *request.resume_ids], sampling=sampling)


def _bound_to_output(request: EngineRequest) -> str:
    """The first setting that depends on which tokens are output, as the caller named it."""
    sampling = request.sampling
    found = {
        "seed": request.seeded and sampling.temperature > 0,  # its generator starts anew
        "guided decoding": sampling.guide is not None,
        "presence_penalty": sampling.presence_penalty != 0,
        "frequency_penalty": sampling.frequency_penalty != 0,
        "a bad word of several tokens": any(len(word) > 1 for word in sampling.bad_words),
        "return_prompt_log_probs": sampling.prompt_logprobs > 0,
    }
    return next((name for name, is_set in found.items() if is_set), "")


def prompt_cached(request: EngineRequest, cached: int) -> int:
    """How many of the ``cached`` tokens belong to the caller's own prompt. ``request``: from ``as_prompt``."""
    return min(cached, len(request.input_ids) - len(request.resume_ids))
