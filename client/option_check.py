"""Checks a request before anything is sent: types, ranges, and options that make sense only beside another one.

Every transport starts here, so that all of them refuse the same things in the same words. The server checks whatever
depends on the engine and its vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

from client.json_text import dumped
from client.option_names import in_options
from client.types import Options, Prompt, is_ids
from contract import guides, ranges
from contract.chunks import REPETITION
from contract.errors import InvalidRequest, shown
from contract.fields import BY_NAME, BY_OPTION, INT32_MAX, Field

_OF_MESSAGES = ("tools", "add_generation_prompt", "continue_final_message", "parse_special")
_NEEDS = {"top_logprobs": "logprobs", "prompt_top_logprobs": "prompt_logprobs"}


def checked(options: Options, prompt: Prompt) -> Options:
    """``options`` with plain values. Raises ``InvalidRequest`` naming the first option that is wrong."""
    if not isinstance(options, Options):
        raise InvalidRequest(
            "options", f"{type(options).__name__} is not Options; give Options(max_tokens=64) or the like"
        )
    plain = {f.name: _plain(f.name, value) for f in fields(options) if (value := getattr(options, f.name)) is not None}
    options = Options(**plain)
    _check_together(options)
    if isinstance(prompt, str):
        _check_unicode("prompt", prompt)
    if isinstance(prompt, str) or is_ids(prompt):
        for name in _OF_MESSAGES:
            if getattr(options, name) != Options.__dataclass_fields__[name].default:
                problem = "needs messages, which the chat template renders; text and token ids are sent as they are"
                raise InvalidRequest(name, problem)
    return options


def _plain(name: str, value: Any) -> Any:
    if name == "tools":  # what is no list of functions, the server refuses
        lists = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
        value = tuple(value) if lists else value
        dumped(name, value)
        return value
    if name == "logit_bias":
        return _biases(value) or None
    field = BY_OPTION[name]
    read = _READERS[field.tensor]
    if not field.repeated:
        return read(name, field, value)
    several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))  # one value alone is a list of it
    values = tuple(read(name, field, each) for each in (value if several else [value]))
    values = tuple(each for each in values if each != "")
    _refuse(name, ranges.count(field, values))
    return values


def _integer(name: str, field: Field, value: Any) -> int:
    among = ranges.known(field.low, field.high)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidRequest(name, f"{shown(value)} is not an integer; give one between {among[0]} and {among[1]}")
    whole = int(value)
    server_knows = isinstance(field.high, str) and abs(whole) <= INT32_MAX
    _refuse(name, "" if server_knows else ranges.integer(whole, among))
    return whole


def _number(name: str, field: Field, value: Any) -> float:
    among = ranges.known(field.low, field.high)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidRequest(name, f"{shown(value)} is not a number; give one between {among[0]:g} and {among[1]:g}")
    number = int(value) if isinstance(value, Integral) else float(value)
    _refuse(name, ranges.number(number, among, field.above_low))
    return float(number)


def _flag(name: str, _: Field, value: Any) -> bool:
    if isinstance(value, float) or not any(value is known or value == known for known in (False, True)):
        raise InvalidRequest(name, f"{shown(value)} is not true or false; give True or False")
    return bool(value)


def _text(name: str, field: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(name, f"{shown(value)} is not text; give a str")
    _check_unicode(name, value)
    _refuse(name, ranges.length(field, value))
    return value


_READERS: dict[str, Callable[[str, Field, Any], Any]] = {
    "INT32": _integer, "UINT64": _integer, "FP32": _number, "BOOL": _flag, "STRING": _text,
}  # fmt: skip


def _biases(value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise InvalidRequest("logit_bias", f"{shown(value)} maps no token ids to numbers; give a dict")
    ids, values = BY_NAME["logit_bias_ids"], BY_NAME["logit_bias_values"]
    _refuse("logit_bias", ranges.count(ids, tuple(value)))
    return {_integer("logit_bias", ids, key): _number("logit_bias", values, bias) for key, bias in value.items()}


def _check_together(options: Options) -> None:
    for name, needed in _NEEDS.items():
        if getattr(options, name) and not getattr(options, needed):
            raise InvalidRequest(name, f"{shown(getattr(options, name))} needs {needed}; set both or neither")
    try:
        guides.check(options.guide_type, options.guide)
    except InvalidRequest as error:
        raise in_options(error) from None
    if options.truncation_side not in ("left", "right"):
        raise InvalidRequest("truncation_side", f"{shown(options.truncation_side)} is unknown; use left or right")
    if options.guide_complete and not options.guide_type:
        raise InvalidRequest("guide_complete", "true needs a guide; give guide_type, or leave this out")
    if options.repetition_detection and len(options.repetition_detection) != len(REPETITION):
        problem = f"{len(options.repetition_detection)} values; give three: {', '.join(REPETITION)}"
        raise InvalidRequest("repetition_detection", problem)
    if options.max_tokens == 0 and not (options.prompt_logprobs or options.return_prompt_ids):
        problem = "0 answers nothing; give at least 1, or ask for prompt_logprobs or return_prompt_ids"
        raise InvalidRequest("max_tokens", problem)


def _refuse(name: str, problem: str) -> None:
    if problem:
        raise InvalidRequest(name, problem)


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = shown(text[error.start])
        raise InvalidRequest(name, f"{half} is half a surrogate pair, not a character; give valid Unicode") from None
