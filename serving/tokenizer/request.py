"""The tokenizer step's rules: which inputs a request may have, their defaults, and what they become (a ``Job``)."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from contract import engine_dir
from contract.chunks import Job, TextOptions
from contract.errors import InvalidRequest, Unsupported, shown
from contract.sampling import Guide, GuideType, Sampling
from serving.tokenizer.tensors import UINT64_MAX, Fields

MAX_STOP_WORDS = 64
MAX_STOP_CHARS = 1000
MAX_SEQUENCES = 16
MAX_TOP_LOGPROBS = 20
MAX_GUIDE_CHARS = 65536
MAX_BIASES = 1024
MAX_BIAS = 100  # OpenAI's range, -100 to 100
INT32_MAX = 2**31 - 1

# caller's field -> the capability a runtime must have for it (same name unless given)
CAPABILITY_OF = {
    name: name
    for name in (
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "min_tokens",
        "priority",
    )
} | {"bad_words": "bad_words", "logit_bias_ids": "logit_bias"}
NEUTRAL_VALUES = {"min_p": 0, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0, "priority": 0}


@dataclass(frozen=True, slots=True)
class Defaults:
    """Sampling defaults of the checkpoint (generation_config.json) and its vocabulary size."""

    vocab_size: int
    eos_token_ids: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0

    @classmethod
    def load(cls, generation_config: Path, vocab_size: int) -> Defaults:
        raw: dict[str, Any] = json.loads(generation_config.read_text(encoding="utf-8"))
        sampled = raw.get("do_sample", False)
        return cls(
            vocab_size,
            engine_dir.end_ids(generation_config.parent),
            temperature=raw.get("temperature", 1.0) if sampled else 0.0,
            top_p=raw.get("top_p", 1.0),
            top_k=raw.get("top_k", 0),
            repetition_penalty=raw.get("repetition_penalty", 1.0),
        )


def job(fields: Fields, defaults: Defaults) -> Job:
    """Everything but the prompt. ``bad_words`` come back as strings' ids later: see ``serving.tokenizer.prompt``."""
    refuse_beams(fields)
    log_probs = fields.flag("return_log_probs", False)
    top = fields.integer("top_logprobs", 0, 0, MAX_TOP_LOGPROBS)
    if top and not log_probs:
        raise InvalidRequest("top_logprobs", f"{top} needs return_log_probs = true; set both or neither")
    sampling = _sampling(fields, defaults, 1 + top if log_probs else 0)
    text = TextOptions(
        stops=fields.texts("stop_words", MAX_STOP_WORDS, MAX_STOP_CHARS),
        include_stop=fields.flag("include_stop_str_in_output", False),
        min_tokens=sampling.min_tokens,
        log_probs=log_probs,
        packed=fields.flag("packed_output", False),
    )
    return Job(
        sampling,
        n=fields.integer("num_return_sequences", 1, 1, MAX_SEQUENCES),
        stream=fields.flag("stream", False),
        text=text,
        priority=fields.integer("priority", 0, -1000, 1000),
        lora_name=fields.text("lora_name"),
        explicit=_explicit(fields),
    )


def refuse_beams(fields: Fields) -> None:
    beams = fields.integer("beam_width", 1, -INT32_MAX, INT32_MAX)
    if beams != 1:
        raise Unsupported("beam_width", f"{beams} is not served; leave it out or send 1, and sample instead")


def _explicit(fields: Fields) -> tuple[str, ...]:
    wanted = []
    for name, capability in CAPABILITY_OF.items():
        if name in fields and (name not in NEUTRAL_VALUES or fields._values[name][0] != NEUTRAL_VALUES[name]):
            wanted.append(capability)
    return tuple(wanted)


def _sampling(fields: Fields, defaults: Defaults, logprobs: int) -> Sampling:
    temperature = fields.number("temperature", defaults.temperature, 0, 2)
    top_p = fields.number("top_p", defaults.top_p, 0, 1)
    if top_p == 0:  # the smallest nucleus is the most likely token
        temperature, top_p = 0.0, 1.0
    max_tokens = fields.integer("max_tokens", 0, 1, INT32_MAX)
    min_tokens = fields.integer("min_tokens", 0, 0, INT32_MAX)
    if max_tokens and min_tokens > max_tokens:
        raise InvalidRequest("min_tokens", f"{min_tokens} is more than max_tokens = {max_tokens}; lower it")
    return Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=max(0, fields.integer("top_k", defaults.top_k, -1, defaults.vocab_size)),
        min_p=fields.number("min_p", 0.0, 0, 1),
        repetition_penalty=fields.number("repetition_penalty", defaults.repetition_penalty, 0, 10, above_low=True),
        presence_penalty=fields.number("presence_penalty", 0.0, -2, 2),
        frequency_penalty=fields.number("frequency_penalty", 0.0, -2, 2),
        seed=fields.integer("seed", secrets.randbits(63), 0, UINT64_MAX),
        min_tokens=min_tokens,
        stop_token_ids=_stop_ids(fields, defaults),
        logit_bias=_biases(fields, defaults.vocab_size),
        ignore_eos=fields.flag("ignore_eos", False),
        logprobs=logprobs,
        guide=_guide(fields),
    )


def _stop_ids(fields: Fields, defaults: Defaults) -> tuple[int, ...]:
    high = defaults.vocab_size - 1
    named = fields.integers("stop_token_ids", MAX_STOP_WORDS, high)
    fields.integer("pad_id", 0, -1, high)  # accepted for NVIDIA's clients; nothing is padded here
    end = fields.integer("end_id", -2, -1, high)
    if fields.flag("ignore_eos", False) or end == -1:
        return named
    return tuple(dict.fromkeys((*defaults.eos_token_ids, *((end,) if end >= 0 else ()), *named)))


def _biases(fields: Fields, vocab_size: int) -> tuple[tuple[int, float], ...]:
    ids = fields.integers("logit_bias_ids", MAX_BIASES, vocab_size - 1)
    values = fields.numbers("logit_bias_values", -MAX_BIAS, MAX_BIAS)
    if len(ids) != len(values):
        raise InvalidRequest("logit_bias_values", f"{len(values)} values for {len(ids)} ids; send one for each")
    return tuple(zip(ids, values, strict=True))


def _guide(fields: Fields) -> Guide | None:
    kind = fields.text("guided_decoding_guide_type")
    guide = fields.text("guided_decoding_guide")
    if not kind:
        if guide:
            raise InvalidRequest("guided_decoding_guide_type", "missing beside guided_decoding_guide; send both")
        return None
    if kind not in get_args(GuideType):
        raise InvalidRequest(
            "guided_decoding_guide_type", f"{shown(kind)} is unknown; use one of {', '.join(get_args(GuideType))}"
        )
    if kind != "json" and not guide:
        raise InvalidRequest("guided_decoding_guide", f"missing for guided_decoding_guide_type {kind!r}; send it")
    if len(guide) > MAX_GUIDE_CHARS:
        raise InvalidRequest(
            "guided_decoding_guide", f"{len(guide)} characters are too many, at most {MAX_GUIDE_CHARS}"
        )
    if kind == "json_schema":
        _check_schema(guide)
    return Guide(cast(GuideType, kind), guide)


def _check_schema(guide: str) -> None:
    try:
        schema = json.loads(guide)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("guided_decoding_guide", f"not JSON ({error}); send a JSON schema") from None
    if not isinstance(schema, (dict, bool)):
        raise InvalidRequest("guided_decoding_guide", f"{shown(guide)} is not a JSON schema; send a JSON object")
