"""The tokenizer step's rules: what a request's inputs become (a ``Job``) and which of them contradict each other."""

from __future__ import annotations

import secrets
from typing import Any, cast

from contract import guides, nesting
from contract.chunks import REPETITION, Job, TextOptions
from contract.errors import InvalidRequest, Unsupported, shown
from contract.fields import BY_NAME, FIELDS
from contract.sampling import ANY_OBJECT, Guide, GuideType, Sampling
from serving.tokenizer.inputs import CheckpointDefaults, Inputs


def job(inputs: Inputs, checkpoint: CheckpointDefaults) -> Job:
    """Everything but the prompt and the ids of ``bad_words``: see ``serving.tokenizer.prompt``."""
    refuse_beams(inputs)
    log_probs = inputs.flag("return_log_probs")
    top = inputs.integer("top_logprobs")
    if top and not log_probs:
        raise InvalidRequest("top_logprobs", f"{top} needs return_log_probs = true; set both or neither")
    prompt_top = inputs.integer("prompt_top_logprobs")
    if prompt_top and not inputs.flag("return_prompt_log_probs"):
        problem = f"{prompt_top} needs return_prompt_log_probs = true; set both or neither"
        raise InvalidRequest("prompt_top_logprobs", problem)
    sampling = _sampling(inputs, checkpoint, 1 + top if log_probs else 0)
    text = TextOptions(
        stops=inputs.texts("stop_words"),
        include_stop=inputs.flag("include_stop_str_in_output"),
        min_tokens=sampling.min_tokens,
        log_probs=log_probs,
        prompt_ids=inputs.flag("return_prompt_ids"),
        end_token=inputs.flag("return_end_token"),
        silent=_is_silent(inputs),
        packed=inputs.flag("packed_output"),
        resume_ids=inputs.integers("resume_ids"),
    )
    n = inputs.integer("num_return_sequences")
    if text.resume_ids and n > 1:
        raise InvalidRequest("resume_ids", f"they belong to one sequence; send num_return_sequences = 1, not {n}")
    return Job(
        sampling,
        n=n,
        stream=inputs.flag("stream"),
        text=text,
        priority=inputs.integer("priority"),
        lora_name=inputs.text("lora_name"),
        cache_salt=inputs.text("cache_salt"),
        stop_key=inputs.text("stop_key"),
        repetition=_repetition(inputs),
        explicit=_asked_for(inputs),
    )


def _is_silent(inputs: Inputs) -> bool:
    """Whether the request is about its prompt alone."""
    silent = "max_tokens" in inputs and inputs.integer("max_tokens") == 0
    about = inputs.flag("return_prompt_log_probs") or inputs.flag("return_prompt_ids")
    if silent and inputs.flag("exclude_input_in_output") and not about:
        problem = "0 answers nothing; give at least 1, or ask for return_prompt_log_probs or return_prompt_ids"
        raise InvalidRequest("max_tokens", problem)
    return silent


def refuse_beams(inputs: Inputs) -> None:
    beams = inputs.integer("beam_width")
    if beams != 1:
        raise Unsupported("beam_width", f"{beams} is not served; leave it out or send 1, and sample instead")


def _asked_for(inputs: Inputs) -> tuple[str, ...]:
    """The capabilities of what the caller sent, but for values that change nothing."""
    return tuple(f.capability for f in FIELDS if f.capability and f.name in inputs and inputs.value(f) != f.default)


def _sampling(inputs: Inputs, checkpoint: CheckpointDefaults, logprobs: int) -> Sampling:
    settings: dict[str, Any] = {field.name: inputs.value(field) for field in FIELDS if field.sampling}
    settings["top_k"] = settings["top_k"] if 0 < settings["top_k"] < checkpoint.vocab_size else 0
    guide, ends, allowed = _guide(inputs), _stop_ids(inputs, checkpoint), inputs.integers("allowed_token_ids")
    if settings["guided_decoding_complete"]:
        _check_complete(inputs, guide)
    elif guide and not guide.optional:
        _check_length(inputs, checkpoint)
        if allowed and not set(allowed) & set(checkpoint.eos_token_ids):
            problem = "none of them is an end token, with which a guided answer ends; add"
            raise InvalidRequest("allowed_token_ids", f"{problem} {checkpoint.eos_token_ids[0]}")
    if settings["top_p"] == 0:  # the smallest nucleus is the most likely token
        settings |= {"temperature": 0.0, "top_p": 1.0}
    if "seed" not in inputs:
        settings["seed"] = secrets.randbits(63)
    max_tokens, min_tokens = inputs.integer("max_tokens"), settings["min_tokens"]
    if "max_tokens" in inputs and min_tokens > max_tokens:
        raise InvalidRequest("min_tokens", f"{min_tokens} is more than max_tokens = {max_tokens}; lower it")
    return Sampling(
        max_tokens=max(1, max_tokens) if "max_tokens" in inputs else 0,  # engines make one token at least
        stop_token_ids=ends,
        logit_bias=_biases(inputs),
        allowed_token_ids=allowed,
        logprobs=logprobs,
        prompt_logprobs=1 + inputs.integer("prompt_top_logprobs") if inputs.flag("return_prompt_log_probs") else 0,
        guide=guide,
        **settings,
    )


def _repetition(inputs: Inputs) -> tuple[int, ...]:
    given = inputs.integers("repetition_detection")
    if given and len(given) != len(REPETITION):
        names = ", ".join(REPETITION)
        raise InvalidRequest("repetition_detection", f"{len(given)} values; give three: {names}")
    if not given or given[0] == 0:
        return ()
    most, least, count = given
    if least > most:
        problem = f"min_pattern_size = {least} is above max_pattern_size = {most}; give at most that"
        raise InvalidRequest("repetition_detection", problem)
    if count < 2:
        raise InvalidRequest("repetition_detection", f"min_count = {count} makes no repetition; give 2 or more")
    return most, max(1, least), count


def _stop_ids(inputs: Inputs, checkpoint: CheckpointDefaults) -> tuple[int, ...]:
    named = inputs.integers("stop_token_ids")
    inputs.integer("pad_id")  # for its range; nothing is padded here
    if inputs.flag("ignore_eos") or _is_endless(inputs, checkpoint):
        return named
    end = (inputs.integer("end_id"),) if "end_id" in inputs else ()
    return tuple(dict.fromkeys((*checkpoint.eos_token_ids, *end, *named)))


def _is_endless(inputs: Inputs, checkpoint: CheckpointDefaults) -> bool:
    """NVIDIA's ensemble ends at ``end_id`` alone, so load tests send one that no answer contains."""
    return "end_id" in inputs and not 0 <= inputs.integer("end_id") < checkpoint.vocab_size


def _biases(inputs: Inputs) -> tuple[tuple[int, float], ...]:
    ids, values = inputs.integers("logit_bias_ids"), inputs.numbers("logit_bias_values")
    if len(ids) != len(values):
        raise InvalidRequest("logit_bias_values", f"{len(values)} values for {len(ids)} ids; send one for each")
    return tuple(zip(ids, values, strict=True))


def _guide(inputs: Inputs) -> Guide | None:
    kind = inputs.text("guided_decoding_guide_type")
    guide = inputs.text("guided_decoding_guide")
    guides.check(kind, guide)
    if not kind:
        return None
    if kind == "json_schema":
        _check_schema(guide)
    return Guide(cast(GuideType, kind), guide or ANY_OBJECT, inputs.flag("guided_decoding_optional"))


def _check_complete(inputs: Inputs, guide: Guide | None) -> None:
    """What would take the answer past its end, or forbid a token that the end needs."""
    if guide is None:
        problem = "true needs a guide; send guided_decoding_guide, or leave this out"
        raise InvalidRequest("guided_decoding_complete", problem)
    for name in ("ignore_eos", "min_tokens", "bad_words", "allowed_token_ids"):
        if inputs.value(BY_NAME[name]) != BY_NAME[name].default:
            raise InvalidRequest(name, "cannot be promised beside guided_decoding_complete; leave one of them out")


def _check_length(inputs: Inputs, checkpoint: CheckpointDefaults) -> None:
    """A guide ends the answer where it is whole, and nothing says how long that is."""
    endless = _is_endless(inputs, checkpoint)
    asked = {"ignore_eos": inputs.flag("ignore_eos"), "end_id": endless, "min_tokens": inputs.integer("min_tokens") > 1}
    for name in (name for name, longer in asked.items() if longer):
        problem = "the answer ends where guided_decoding_guide is fulfilled, however short; leave one of them out"
        raise InvalidRequest(name, problem)


def _check_schema(guide: str) -> None:
    try:
        schema = nesting.loads(guide)
    except ValueError as error:
        raise InvalidRequest("guided_decoding_guide", f"not JSON ({error}); send a JSON schema") from None
    if not isinstance(schema, (dict, bool)):
        raise InvalidRequest("guided_decoding_guide", f"{shown(guide)} is not a JSON schema; send a JSON object")
