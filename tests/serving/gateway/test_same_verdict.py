"""The same ``Options`` are taken or refused alike over gRPC and over HTTP, in the same words (OpenAI's for a context
that is too short): each option at its borders, beyond them, and with what is no value of it at all."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, get_args

import pytest

from client import NO_RETRY, Client, Options, errors
from contract.sampling import GuideType
from serving.gateway.schema.context_words import openais
from tests.test_refusals import REMEDY

pytestmark = pytest.mark.triton
CHAT: list[Any] = [{"role": "user", "content": "Hi"}]
ODD = object()
TOOL = {"type": "function", "function": {"name": "a"}}
NO_NUMBERS: tuple[Any, ...] = ("1", True, [1], b"1", ODD, math.nan)
NO_INTEGERS: tuple[Any, ...] = (*NO_NUMBERS, 1.0, 1.5)
FLAGS: tuple[Any, ...] = (True, False, 1, 0, 2, 1.0, "x", [True], ODD)
TEXTS: tuple[Any, ...] = ("", "a", 5, b"a", "half a \ud83d", ["a"], ODD)
LISTS: tuple[Any, ...] = ([], (), None, {"a": 1}, [None], ODD)

# Every option, and what is given as its value; or several options at once.
VALUES: dict[str, tuple[Any, ...]] = {
    "max_tokens": (0, 1, -1, 2**31 - 1, 2**31, 2**70, *NO_INTEGERS),
    "temperature": (0, 2, 2.1, -0.1, 1e-45, 10**40, 1e300, *NO_NUMBERS),
    "top_p": (0, 1, 1.1, -0.1, *NO_NUMBERS),
    "top_k": (-1, 0, -2, 152_064, 152_065, 2**31, *NO_INTEGERS),
    "min_p": (0, 1, 1.1, *NO_NUMBERS),
    "repetition_penalty": (0, 0.001, 10, 10.1, *NO_NUMBERS),
    "presence_penalty": (-2, 2, -2.1, 2.1, *NO_NUMBERS),
    "frequency_penalty": (-2, 2, -2.1, 2.1, *NO_NUMBERS),
    "seed": (-1, 0, 2**63, 2**64 - 1, 2**64, -(2**63), *NO_INTEGERS),
    "min_tokens": (0, 4, 5, -1, 2**31, *NO_INTEGERS),
    "stop": (["ø"] * 64, ["ø"] * 65, ["ø" * 1000], ["ø" * 1001], [""] * 65, "ø", [5], [b"a"], ["\ud83d"], *LISTS),
    "stop_token_ids": ([1], 5, [-1], [152_063], [152_064], [2**31], [1] * 64, [1] * 65, [1.0], [True], "a", *LISTS),
    "include_stop": FLAGS,
    "bad_words": (["ø"] * 64, ["ø"] * 65, ["ø" * 1001], "ø", [5], ["\ud83d"], *LISTS),
    "logit_bias": (
        {}, {1: 1.0}, {-1: 1}, {152_064: 1}, {2**31: 1}, {-(2**31): 1}, {1: 100}, {1: 101}, {1: math.nan}, {"1": 1},
        {1: math.inf}, {"a": 1}, {1.5: 1}, {True: 1}, {1: True}, {1: "a"}, {1: None}, [1], 5,
        dict.fromkeys(range(1025), 1),
    ),
    "allowed_token_ids": ([1], 5, [-1], [152_063], [152_064], [2**31], [1] * 1025, [1.0], [True], "a", *LISTS),
    "repetition_detection": (
        (3, 1, 2), (3, 1), (3, 1, 1), (1, 3, 2), (0, 0, 0), (1025, 1, 2), (-1, 1, 2), (3.0, 1, 2), (True, 1, 2),
        {"max_pattern_size": 3}, 5, *LISTS,
    ),
    "ignore_eos": FLAGS,
    "n": (1, 2, 16, 17, 0, -1, 2**40, *NO_INTEGERS),
    "logprobs": FLAGS,
    "top_logprobs": (0, 3, -1, 21, *NO_INTEGERS),
    "prompt_logprobs": FLAGS,
    "prompt_top_logprobs": (0, 2, -1, 21, *NO_INTEGERS),
    "return_prompt_ids": FLAGS,
    "return_end_token": FLAGS,
    "guide_type": ("json", "json_schema", "regex", "ebnf_grammar", "structural_tag", "xml", *TEXTS),
    "guide": ("a" * 262_145, *TEXTS),
    "guide_optional": FLAGS,
    "guide_complete": FLAGS,
    "truncate_prompt_tokens": (-1, 0, 1, 40_000, -2, 2**31, *NO_INTEGERS),
    "truncation_side": ("left", "right", *TEXTS),
    "tools": (
        [TOOL], TOOL, ["x"], [{"type": "function"}], [{"type": "function", "function": {"name": 5}}],
        [{"type": "function", "function": {"name": "a b"}}], [ODD], [{"\ud83d": 1}], [{1: 2}], [{"a": 2**70}], *LISTS,
    ),
    "add_generation_prompt": FLAGS,
    "continue_final_message": FLAGS,
    "parse_special": FLAGS,
    "resume_ids": ([1], [-1], [152_064], [2**31], [1.5], ["a"], 5, *LISTS),
    "priority": (-1000, 1000, -1001, 1001, 2**31, *NO_INTEGERS),
    "lora_name": ("x", *TEXTS),
    "cache_salt": ("x" * 256, "x" * 257, *TEXTS),
    "": (
        *({"logprobs": True, "top_logprobs": value} for value in (0, 1, 20, 21, -1, True, "a")),
        *({"prompt_logprobs": True, "prompt_top_logprobs": value} for value in (0, 1, 20, 21, -1, True, "a")),
        *({"guide_type": kind, "guide": "{}"} for kind in get_args(GuideType)),
        {"guide_type": "regex", "guide": "a" * 65_537}, {"guide_type": "regex", "guide": ""},
        {"guide": "a"}, {"guide_type": "json", "guide": ""},
        {"guide_type": "json_schema", "guide": "["}, {"guide_type": "structural_tag", "guide": "["},
        {"guide_type": "regex", "guide": "a", "guide_optional": True},
        {"guide_type": "json_schema", "guide": "{}", "guide_complete": True, "min_tokens": 2},
        {"guide_type": "json_schema", "guide": "{}", "ignore_eos": True},
        {"guide_type": "regex", "guide": "a", "min_tokens": 2}, {"max_tokens": 4, "min_tokens": 5},
        {"max_tokens": 0, "prompt_logprobs": True}, {"max_tokens": 0, "return_prompt_ids": True},
        {"add_generation_prompt": True, "continue_final_message": True}, {"n": 2, "seed": 2**64 - 1},
        {"n": 2, "resume_ids": [1]}, {"max_tokens": 40_000},
    ),
}  # fmt: skip


def verdict(client: Client, prompt: Any, options: Options) -> str:
    try:
        answer = client.generate(prompt, options)
    except errors.ClientError as error:
        field = getattr(error, "field", "")
        assert (
            field
            and str(error).startswith(field)
            and any(sign in str(error) for sign in REMEDY)
            and "\n" not in str(error)
        ), error
        assert not hasattr(Options(), field) or field in str(options), error
        return f"{type(error).__name__}: {error}"
    return f"{[(choice.finish_reason, choice.completion_tokens) for choice in answer.choices]}"


def test_the_table_has_every_option() -> None:
    assert [name for name in VALUES if name] == [field.name for field in fields(Options)]


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("prompt", ["Hi", CHAT], ids=["text", "messages"])
def test_both_say_the_same(server: Any, name: str, prompt: Any) -> None:
    with Client(server.grpc, retry=NO_RETRY) as grpc, Client(server.gateway, retry=NO_RETRY) as http:
        for value in VALUES[name]:
            options = Options(**{"max_tokens": 4, "seed": 1, **({name: value} if name else value)})
            over_grpc, over_http = verdict(grpc, prompt, options), verdict(http, prompt, options)
            if not over_http.endswith("; use the gRPC transport"):  # for which OpenAI's API has no field
                kind, _, words = over_grpc.partition(": ")
                assert over_http == (f"{kind}: {openais(words)}" if words else over_grpc), options
