"""The tokenizer step: golden renderings, defaults, and one clear sentence for every bad input."""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from serving.errors import InvalidRequest, ServingError, Unsupported
from serving.fields import Fields
from serving.prompt import Encoded, PromptBuilder
from tests.serving.conftest import CONTEXT

QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
IM_END, END_OF_TEXT = 151645, 151643
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Météo", "parameters": {"type": "object", "properties": {}}},
}


def fields(**values: Any) -> Fields:
    """Strings become bytes, lists stay: as Triton gives them."""
    as_list = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    return Fields({name: [v.encode() if isinstance(v, str) else v for v in vs] for name, vs in as_list.items()})


def encode(builder: PromptBuilder, **values: Any) -> Encoded:
    (result,) = builder.encode([fields(**values)])
    assert isinstance(result, Encoded), result
    return result


def refusal(builder: PromptBuilder, **values: Any) -> InvalidRequest:
    (result,) = builder.encode([fields(**values)])
    assert isinstance(result, InvalidRequest), result
    return result


def rendered(builder: PromptBuilder, tokenizer: Tokenizer, messages: list[Any], **values: Any) -> str:
    ids = encode(builder, messages=json.dumps(messages), **values).ids
    return str(tokenizer.decode(ids, skip_special_tokens=False))


# --- golden renderings: as Qwen2.5-Instruct's own template writes them ----------------------------------------------


def test_qwens_default_system_prompt(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    text = rendered(builder, tokenizer, [{"role": "user", "content": "Hi 你好"}])
    assert text == f"<|im_start|>system\n{QWEN}<|im_end|>\n<|im_start|>user\nHi 你好<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_callers_system_prompt(role: str, builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    messages = [{"role": role, "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert rendered(builder, tokenizer, messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_content_parts_are_joined(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    parts = [{"type": "text", "text": "Hello, "}, {"type": "text", "text": "world"}]
    whole = rendered(builder, tokenizer, [{"role": "user", "content": "Hello, world"}])
    assert rendered(builder, tokenizer, [{"role": "user", "content": parts}]) == whole


def test_tools_stand_in_the_system_prompt(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    text = rendered(builder, tokenizer, [{"role": "user", "content": "Hi"}], tools=json.dumps([WEATHER]))
    assert text.startswith(f"<|im_start|>system\n{QWEN}\n\n# Tools\n\nYou may call one or more functions")
    assert f"<tools>\n{json.dumps(WEATHER, ensure_ascii=False)}\n</tools>" in text
    assert text.endswith("</tool_call><|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("arguments", ['{"city": "Paris"}', {"city": "Paris"}])
def test_a_tool_call_and_its_answer(arguments: Any, builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "12 °C"},
        {"role": "tool", "tool_call_id": "c2", "content": "rain"},
    ]
    text = rendered(builder, tokenizer, messages, tools=json.dumps([WEATHER]))
    assert text.endswith(
        "<|im_start|>user\nWeather?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n12 °C\n</tool_response>\n<tool_response>\nrain\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_text_input_is_sent_as_it_is(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    ids = encode(builder, text_input="<|im_start|>user\nHi").ids
    assert ids == tokenizer.encode("<|im_start|>user\nHi", add_special_tokens=False).ids


# --- defaults and what becomes of the inputs -----------------------------------------------------------------------


def test_defaults_are_the_checkpoints(builder: PromptBuilder) -> None:
    job = encode(builder, text_input="Hi").job
    s = job.sampling
    assert (s.temperature, s.top_p, s.top_k, s.repetition_penalty) == (0.7, 0.8, 20, 1.05)
    assert s.stop_token_ids == (IM_END, END_OF_TEXT) and s.max_tokens == 0 and s.min_p == 0
    assert (job.stream, job.n, job.explicit, job.text.stops) == (False, 1, (), ())


def test_a_seed_is_drawn_anew_for_every_request(builder: PromptBuilder) -> None:
    assert len({encode(builder, text_input="Hi").job.sampling.seed for _ in range(8)}) == 8
    job = encode(builder, text_input="Hi", seed=2**64 - 1).job
    assert job.sampling.seed == 2**64 - 1 and job.explicit == ("seed",)


def test_only_what_differs_from_neutral_is_a_wish(builder: PromptBuilder) -> None:
    neutral = {
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "priority": 0,
    }
    assert encode(builder, text_input="Hi", **neutral).job.explicit == ()
    assert set(encode(builder, text_input="Hi", min_p=0.1, priority=3).job.explicit) == {"min_p", "priority"}


def test_float32_values_are_read_as_meant(builder: PromptBuilder) -> None:
    assert encode(builder, text_input="Hi", top_p=0.10000000149011612).job.sampling.top_p == 0.1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (IM_END, END_OF_TEXT)),
        ({"end_id": 42}, (IM_END, END_OF_TEXT, 42)),
        ({"end_id": 42, "stop_token_ids": [7, 42]}, (IM_END, END_OF_TEXT, 42, 7)),
        ({"ignore_eos": True}, ()),
        ({"end_id": -1, "stop_token_ids": [7]}, (7,)),
    ],
)
def test_end_tokens(values: dict[str, Any], expected: tuple[int, ...], builder: PromptBuilder) -> None:
    assert encode(builder, text_input="Hi", **values).job.sampling.stop_token_ids == expected


def test_top_p_zero_and_top_k_minus_one(builder: PromptBuilder) -> None:
    assert encode(builder, text_input="Hi", top_p=0.0).job.sampling.temperature == 0
    assert encode(builder, text_input="Hi", top_k=-1).job.sampling.top_k == 0


def test_nvidias_empty_strings_mean_none(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    job = encode(builder, text_input="Hi", stop_words=[""], bad_words=[""], lora_name="").job
    assert (job.text.stops, job.sampling.bad_words, job.lora_name) == ((), (), "")


def test_bad_words_are_ids_with_and_without_a_leading_space(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    words = encode(builder, text_input="Hi", bad_words=["secret"]).job.sampling.bad_words
    forms = {tuple(tokenizer.encode(form, add_special_tokens=False).ids) for form in ("secret", " secret")}
    assert set(words) == forms


def test_the_prompt_is_echoed_on_request(builder: PromptBuilder) -> None:
    assert encode(builder, text_input="Hi", exclude_input_in_output=False).job.text.echo == "Hi"
    assert encode(builder, text_input="Hi").job.text.echo == ""


def test_a_cancel_needs_no_prompt(builder: PromptBuilder) -> None:
    assert encode(builder, stop=True).job.cancel


# --- every bad input: field, value, remedy --------------------------------------------------------------------------

USER = json.dumps([{"role": "user", "content": "Hi"}])


def message(**parts: Any) -> dict[str, str]:
    return {"messages": json.dumps([parts])}


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("neither", {}, "text_input: missing; send exactly one of text_input and messages"),
    ("both", {"text_input": "a", "messages": USER}, "text_input: given beside messages; send exactly one"),
    ("empty prompt", {"text_input": ""}, "text_input: the prompt is empty; send at least one character"),
    ("tools alone", {"text_input": "a", "tools": "[]"}, "tools: needs messages"),
    ("not JSON", {"messages": "[{"}, r"messages: not JSON \(.*\); send a JSON list"),
    ("deep JSON", {"messages": "[" * 100_000}, r"messages: not JSON \(.*\); send a JSON list"),
    ("no list", {"messages": '{"role": 1}'}, "messages: .*role.* is not a list; send a JSON list"),
    ("empty list", {"messages": "[]"}, "messages: the list is empty; send at least one message"),
    ("too many", {"messages": json.dumps([{"role": "user", "content": "a"}] * 2049)}, "messages: 2049 messages .* 2048"),
    ("no object", {"messages": '["a"]'}, r"messages: messages\[0\] is 'a'; send an object with role and content"),
    ("unknown role", message(role="robot", content="a"), r"messages: messages\[0\] has role 'robot'; use one of system"),
    ("no role", message(content="a"), r"messages: messages\[0\] has role None; use one of system"),
    ("list role", message(role=["user"], content="a"), r"messages: messages\[0\] has role \['user'\]"),
    ("no content", message(role="user"), r"messages: messages\[0\] has content None; send a string"),
    ("number content", message(role="user", content=5), r"messages: messages\[0\] has content 5; send a string"),
    ("image", message(role="user", content=[{"type": "image_url"}]), r"messages: messages\[0\] has content .*text parts"),
    ("bad tool call", message(role="assistant", tool_calls=[{"function": {}}]), r"messages: .* has tool_calls .*; send a list"),
    ("tool calls 5", message(role="assistant", tool_calls=5), r"messages: .* has tool_calls 5; send a list"),
    (
        "bad arguments",
        message(role="assistant", tool_calls=[{"function": {"name": "f", "arguments": "{"}}]),
        r"messages: messages\[0\] has tool_calls '\{'",
    ),
    ("surrogate", {"messages": '[{"role": "user", "content": "a\\ud800"}]'}, r"messages: '\\ud800' is half a surrogate"),
    ("tools no list", {"messages": USER, "tools": '{"a": 1}'}, "tools: .* is not a list; send a JSON list"),
    ("tools not JSON", {"messages": USER, "tools": "x"}, "tools: not JSON"),
    ("invalid UTF-8", {"text_input": [b"ab\xff"]}, r"text_input: byte 2 of b'ab\\xff' is not UTF-8; send text encoded"),
    ("stop UTF-8", {"text_input": "a", "stop_words": [b"\xc3"]}, "stop_words: byte 0 of .* is not UTF-8"),
    ("two prompts", {"text_input": ["a", "b"]}, r"text_input: expected one value, got 2; send a tensor of shape \[1, 1\]"),
    ("max_tokens 0", {"text_input": "a", "max_tokens": 0}, "max_tokens: 0 is out of range; give an integer between 1"),
    ("max_tokens -5", {"text_input": "a", "max_tokens": -5}, "max_tokens: -5 is out of range; give an integer between 1"),
    (
        "max_tokens big",
        {"text_input": "a", "max_tokens": 600},
        f"max_tokens: 600 with a prompt of 1 tokens exceeds the context of {CONTEXT} tokens; use at most {CONTEXT - 1}",
    ),
    ("min > max", {"text_input": "a", "max_tokens": 2, "min_tokens": 3}, "min_tokens: 3 is more than max_tokens = 2; lower it"),
    ("temperature NaN", {"text_input": "a", "temperature": math.nan}, "temperature: nan is out of range; give a number between 0 and 2"),
    ("temperature inf", {"text_input": "a", "temperature": math.inf}, "temperature: inf is out of range; .* 0 and 2"),
    ("temperature -1", {"text_input": "a", "temperature": -1.0}, "temperature: -1 is out of range; .* 0 and 2"),
    ("top_p 2", {"text_input": "a", "top_p": 2.0}, "top_p: 2 is out of range; give a number between 0 and 1"),
    ("top_k", {"text_input": "a", "top_k": -2}, "top_k: -2 is out of range; give an integer between -1 and 152064"),
    ("min_p", {"text_input": "a", "min_p": 1.5}, "min_p: 1.5 is out of range"),
    ("repetition 0", {"text_input": "a", "repetition_penalty": 0.0}, "repetition_penalty: 0 .* above 0 and at most 10"),
    ("presence", {"text_input": "a", "presence_penalty": 3.0}, "presence_penalty: 3 is out of range; .* -2 and 2"),
    ("frequency", {"text_input": "a", "frequency_penalty": -3.0}, "frequency_penalty: -3 is out of range; .* -2 and 2"),
    ("65 stops", {"text_input": "a", "stop_words": [f"s{i}" for i in range(65)]}, "stop_words: 65 strings are too many; give at most 64"),
    ("long stop", {"text_input": "a", "stop_words": ["x" * 1001]}, "stop_words: 'xxx.* has 1001 characters; give at most 1000"),
    ("65 bad", {"text_input": "a", "bad_words": [f"s{i}" for i in range(65)]}, "bad_words: 65 strings are too many"),
    ("stop id", {"text_input": "a", "stop_token_ids": [152064]}, "stop_token_ids: 152064 is not a token id; .* 0 and 152063"),
    ("end id", {"text_input": "a", "end_id": 152064}, "end_id: 152064 is out of range"),
    ("n 0", {"text_input": "a", "num_return_sequences": 0}, "num_return_sequences: 0 is out of range; .* 1 and 16"),
    ("n 17", {"text_input": "a", "num_return_sequences": 17}, "num_return_sequences: 17 is out of range"),
    ("beams", {"text_input": "a", "beam_width": 2}, "beam_width: 2 is not served; leave it out or send 1"),
    ("tops alone", {"text_input": "a", "top_logprobs": 3}, "top_logprobs: 3 needs return_log_probs = true"),
    ("tops 21", {"text_input": "a", "top_logprobs": 21, "return_log_probs": True}, "top_logprobs: 21 is out of range"),
    ("guide type", {"text_input": "a", "guided_decoding_guide_type": "xml", "guided_decoding_guide": "a"}, "guided_decoding_guide_type: 'xml' is unknown; use one of json, json_schema"),
    ("guide alone", {"text_input": "a", "guided_decoding_guide": "a"}, "guided_decoding_guide_type: missing beside guided_decoding_guide"),
    ("no guide", {"text_input": "a", "guided_decoding_guide_type": "regex"}, "guided_decoding_guide: missing for .*'regex'; send it"),
    ("bad schema", {"text_input": "a", "guided_decoding_guide_type": "json_schema", "guided_decoding_guide": "{"}, "guided_decoding_guide: not JSON"),
    ("list schema", {"text_input": "a", "guided_decoding_guide_type": "json_schema", "guided_decoding_guide": "[1]"}, r"guided_decoding_guide: '\[1\]' is not a JSON schema"),
    ("long prompt", {"text_input": "word " * CONTEXT}, f"text_input: the prompt has 51\\d tokens, the context is {CONTEXT} and a prompt may take 511; shorten it or serve"),
    ("long messages", message(role="user", content="word " * CONTEXT), f"messages: the prompt has 5\\d\\d tokens, the context is {CONTEXT}"),
    ("1 MB", {"text_input": "word " * 200_000}, f"text_input: the prompt has at least \\d+ tokens, the context is {CONTEXT}"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "sentence"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_gets_one_clear_sentence(values: dict[str, Any], sentence: str, builder: PromptBuilder) -> None:
    bad, good = builder.encode([fields(**values), fields(text_input="Hi", max_tokens=2)])
    assert isinstance(bad, InvalidRequest)
    line = str(bad)
    assert re.match(sentence, line), line
    assert "\n" not in line and len(line) < 400
    assert line.startswith(f"{bad.field}: ")
    assert isinstance(good, Encoded), "the request beside it is unharmed"


def test_beams_are_unsupported_rather_than_invalid(builder: PromptBuilder) -> None:
    assert isinstance(refusal(builder, text_input="a", beam_width=4), Unsupported)


@pytest.mark.parametrize("letter", ["a", " ", "你", "ab ", "\n"])
def test_a_megabyte_is_refused_or_encoded_in_bounded_time(letter: str, builder: PromptBuilder) -> None:
    start = time.monotonic()
    (result,) = builder.encode([fields(text_input=letter * (1_000_000 // len(letter.encode())))])
    assert isinstance(result, InvalidRequest) and "the prompt has" in str(result)
    assert time.monotonic() - start < 10  # about 0.2 s alone; the bound is for a crowded machine


@given(data=st.binary(max_size=60))
def test_any_bytes_are_encoded_or_refused(data: bytes, builder: PromptBuilder) -> None:
    for name in ("text_input", "messages"):
        (result,) = builder.encode([Fields({name: [data]})])
        assert isinstance(result, Encoded | InvalidRequest)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("user"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "tool_calls", "function", "name", "arguments", "type", "text"]), inner, max_size=4
    ),
    max_leaves=12,
)  # fmt: skip


@given(messages=JSON, tools=JSON)
def test_any_json_is_rendered_or_refused(messages: Any, tools: Any, builder: PromptBuilder) -> None:
    for value in (messages, [messages], [{"role": "user", "content": "a"}, messages]):
        (result,) = builder.encode([fields(messages=json.dumps(value), tools=json.dumps(tools))])
        assert isinstance(result, Encoded | ServingError)
