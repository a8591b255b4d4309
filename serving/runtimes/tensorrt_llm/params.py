"""Our ``Sampling`` as keywords of TensorRT-LLM's ``SamplingParams``; each request needs a new object."""

from __future__ import annotations

import math
from typing import Any

from contract.fields import BY_NAME
from contract.sampling import Guide, Sampling
from serving import structural_tag
from serving.json_schema import prepared

UNUSED = "\u0000"  # a bad word's text, which the internals require but ignore when there are ``_bad_word_ids``


def arguments(sampling: Sampling, eos: int) -> dict[str, Any]:
    """Everything but ``guided_decoding`` and bad words of several tokens.

    Without a tokenizer ``end_id`` is required, and it holds a single id: the first end id. The others become stop ids.
    ``ignore_eos`` sends no end id but leaves stop ids in place, so those are only what the caller named.
    """
    ends = sampling.stop_token_ids
    ignore = sampling.ignore_eos or not ends
    stops = list(ends) if ignore else list(ends[1:])
    found: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "end_id": eos if ignore else ends[0],
        "pad_id": eos,
        "ignore_eos": ignore,
        "detokenize": False,
        "seed": sampling.seed,
        **_selection(sampling),
        **_penalties(sampling),
    }
    if stops:
        found["stop_token_ids"] = stops
    if sampling.min_tokens > 0:
        found["min_tokens"] = sampling.min_tokens
    if sampling.logprobs:  # 1.2 reads 0 as none, so the chosen token alone is requested as 1
        found["logprobs"] = max(1, sampling.logprobs - 1)
    singles = [word[0] for word in sampling.bad_words if len(word) == 1]
    if singles:
        found["bad_token_ids"] = singles
    return found


def _selection(sampling: Sampling) -> dict[str, Any]:
    """Greedy is ``top_k=1`` alone (the backend refuses ``top_p=0``); otherwise all three are given, because a request
    with none of them is greedy too."""
    if sampling.temperature == 0:
        return {"top_k": 1}
    found = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return {**found, "min_p": sampling.min_p} if sampling.min_p > 0 else found


def _penalties(sampling: Sampling) -> dict[str, Any]:
    names = ("repetition_penalty", "presence_penalty", "frequency_penalty")
    return {name: value for name in names if (value := getattr(sampling, name)) != BY_NAME[name].default}


def guide_arguments(guide: Guide) -> dict[str, Any]:
    """Keywords of ``GuidedDecodingParams``: exactly one kind. Raises ``ValueError``."""
    if guide.type in ("json", "json_schema"):
        return {"json": prepared(guide.guide)}
    if guide.type == "structural_tag":
        return {"structural_tag": structural_tag.dumped(structural_tag.parsed(guide.guide))}
    return {{"regex": "regex", "ebnf_grammar": "grammar"}[guide.type]: guide.guide}


def build(module: Any, sampling: Sampling, eos: int) -> Any:
    """A ``SamplingParams`` of the module ``tensorrt_llm.sampling_params``; its own checks raise ``ValueError``."""
    extra = {}
    # A grammar that does not compile ends the executor's loop with all its requests (guided_decoder.py, ``_build``), so
    # only what a caller asked for is passed on.
    if sampling.guide and not sampling.guide.optional:
        extra["guided_decoding"] = module.GuidedDecodingParams(**guide_arguments(sampling.guide))
    longer = [list(word) for word in sampling.bad_words if len(word) > 1]
    if longer:
        extra["bad"] = [UNUSED] * len(longer)
    params = module.SamplingParams(**arguments(sampling, eos), **extra)
    if longer:
        params._bad_word_ids = longer
    return params


def priority(value: int) -> float:
    """Our priority (any integer, higher is sooner, 0 is normal) in TensorRT-LLM 1.4's [0, 1] with 0.5 as normal."""
    return 0.5 + math.atan(value) / math.pi
