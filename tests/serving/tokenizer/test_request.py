"""Every bad input gets one clear sentence: field, value, remedy."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import InvalidRequest, ServingError, Unsupported
from serving.tokenizer.prompt import PromptBuilder
from tests.serving.conftest import CONTEXT
from tests.serving.tokenizer.test_prompt import fields

USER = json.dumps([{"role": "user", "content": "Hi"}])


def bad(sentence: str, text_input: Any = "a", **values: Any) -> Any:
    """A request that is good but for ``values``; its error begins as ``sentence`` (a regular expression) says."""
    return pytest.param({"text_input": text_input, **values}, sentence, id=sentence[:40])


def message(sentence: str, **parts: Any) -> Any:
    return bad(f"messages: {sentence}", [], messages=json.dumps([parts]))


def guide(sentence: str, kind: str, text: str) -> Any:
    return bad(sentence, guided_decoding_guide_type=kind, guided_decoding_guide=text)


PROMPTS = [
    bad("text_input: missing; send exactly one of text_input, messages and input_ids", []),
    bad("text_input: given beside messages; send exactly one", messages=USER),
    bad("text_input: the prompt is empty; send at least one character", ""),
    bad(r"text_input: byte 2 of b'ab\\xff' is not UTF-8; send text encoded as UTF-8", [b"ab\xff"]),
    bad(r"text_input: expected one value, got 2; send a tensor of shape \[1, 1\]", ["a", "b"]),
    bad(
        rf"text_input: the prompt has 51\d tokens, the context is {CONTEXT} and a prompt may take 511",
        "word " * CONTEXT,
    ),
    bad(rf"text_input: the prompt has at least \d+ tokens, the context is {CONTEXT}", "word " * 200_000),
    bad("tools: needs messages", tools="[]"),
    bad("tools: not JSON", [], messages=USER, tools="x"),
    bad('tools: {"a": 1} is wrong: should be a list', [], messages=USER, tools='{"a": 1}'),
    bad(r"tools\[0\].type: missing; it is required", [], messages=USER, tools='[{"a": 1}]'),
    bad(r"messages: not JSON \(.*\); send a JSON list", [], messages="[{"),
    bad(r"messages: not JSON \(nested too deeply: at most 100 levels", [], messages="[" * 100_000),
    bad("messages: .*role.* is not a list; send a JSON list", [], messages='{"role": 1}'),
    bad("messages: the list is empty; send at least one message", [], messages="[]"),
    bad("messages: 2049 messages .* 2048", [], messages=json.dumps([{"role": "user", "content": "a"}] * 2049)),
    bad(r"messages: messages\[0\] is 'a'; send an object with role and content", [], messages='["a"]'),
    bad(r"messages: '\\ud800' is half", [], messages='[{"role": "user", "content": "a\\ud800"}]'),
    message(r"messages\[0\] has role 'robot'; use one of system, user", role="robot", content="a"),
    message(r"messages\[0\] has no role; use one of system", content="a"),
    message(r"messages\[0\] has role \[\"user\"\]", role=["user"], content="a"),
    message(r"messages\[0\] has no content; send a string \(it may be empty\) or a list of text parts", role="user"),
    message(r"messages\[0\] has content null; send a string \(it may be empty\)", role="user", content=None),
    message(r"messages\[0\] has content true; send a string", role="user", content=True),
    message(r"messages\[0\] has role null; use one of system", role=None, content="a"),
    message(r"messages\[0\] has content 5; send a string", role="user", content=5),
    message(r"messages\[0\] has content .*text parts", role="user", content=[{"type": "image_url"}]),
    message(r"messages\[0\] has tool_calls 5; send a list", role="assistant", tool_calls=5),
    message(r"messages\[0\] has tool_calls .*name and JSON", role="assistant", tool_calls=[{"function": {}}]),
    bad("continue_final_message: needs messages", continue_final_message=True),
    bad("continue_final_message: true needs a last", [], messages=USER, continue_final_message=True),
    bad(
        "continue_final_message: true needs .* add_generation_prompt false",
        [],
        continue_final_message=True,
        add_generation_prompt=True,
        messages='[{"role": "assistant", "content": "a"}]',
    ),
    message(rf"the prompt has 5\d\d tokens, the context is {CONTEXT}", role="user", content="word " * CONTEXT),
]

SETTINGS = [
    bad("max_tokens: 0 answers nothing; give at least 1, or ask for return_prompt_log_probs", max_tokens=0),
    bad("min_tokens: 1 is more than max_tokens = 0", max_tokens=0, min_tokens=1, return_prompt_ids=True),
    bad("prompt_top_logprobs: 2 needs return_prompt_log_probs = true", prompt_top_logprobs=2),
    bad("max_tokens: -5 is out of range; give an integer between 0 and", max_tokens=-5),
    bad(f"max_tokens: 600 with a prompt of 1 tokens exceeds the context of {CONTEXT} .* at most 511", max_tokens=600),
    bad(
        "repetition_detection: 2 values; give three: max_pattern_size, min_pattern_size, min_count",
        repetition_detection=[8, 1],
    ),
    bad("repetition_detection: min_pattern_size = 9 is above max_pattern_size = 8", repetition_detection=[8, 9, 2]),
    bad("repetition_detection: min_count = 1 makes no repetition; give 2 or more", repetition_detection=[8, 0, 1]),
    bad("repetition_detection: -1 is out of range", repetition_detection=[8, -1, 2]),
    bad("min_tokens: 3 is more than max_tokens = 2; lower it", max_tokens=2, min_tokens=3),
    bad("temperature: nan is out of range; give a number between 0 and 2", temperature=math.nan),
    bad("temperature: inf is out of range; give a number between 0 and 2", temperature=math.inf),
    bad("temperature: -1 is out of range", temperature=-1.0),
    bad("temperature: 2.00001 is out of range", temperature=2.00001),
    bad("top_p: 2 is out of range; give a number between 0 and 1", top_p=2.0),
    bad("top_k: -2 is out of range; give an integer between -1 and 2147483647", top_k=-2),
    bad("min_p: 1.5 is out of range", min_p=1.5),
    bad("repetition_penalty: 0 is out of range; give a number above 0 and at most 10", repetition_penalty=0.0),
    bad("presence_penalty: 3 is out of range; .* -2 and 2", presence_penalty=3.0),
    bad("frequency_penalty: -3 is out of range; .* -2 and 2", frequency_penalty=-3.0),
    bad("stop_words: 65 strings are too many; give at most 64", stop_words=[f"s{i}" for i in range(65)]),
    bad("stop_words: 'xxx.* has 1001 characters; give at most 1000", stop_words=["x" * 1001]),
    bad("stop_words: byte 0 of .* is not UTF-8", stop_words=[b"\xc3"]),
    bad("bad_words: 65 strings are too many; give at most 64", bad_words=[f"s{i}" for i in range(65)]),
    bad("stop_token_ids: 152064 is not a token id; ids lie between 0 and 152063", stop_token_ids=[152064]),
    bad("end_id: -2 is out of range", end_id=-2),
    ({"input_ids": [1, 152064]}, "input_ids: 152064 is not a token id; ids lie between 0 and 152063"),
    ({"input_ids": [-1]}, "input_ids: -1 is not a token id"),
    ({"input_ids": [1], "text_input": "a"}, "text_input: given beside input_ids; send exactly one"),
    ({"input_ids": [1], "messages": "[]"}, "messages: given beside input_ids; send exactly one"),
    ({"input_ids": [1], "tools": "[]"}, "tools: needs messages"),
    ({"input_ids": [1] * 40_000}, r"input_ids: the prompt has 40000 tokens, the context is \d+"),
    bad("logit_bias_ids: 152064 is not a token id", logit_bias_ids=[152064], logit_bias_values=[1.0]),
    bad(
        "logit_bias_values: 101 is out of range; give numbers between -100 and 100",
        logit_bias_ids=[1],
        logit_bias_values=[101.0],
    ),
    bad("logit_bias_values: nan is out of range", logit_bias_ids=[1], logit_bias_values=[math.nan]),
    bad("logit_bias_values: 1 values for 2 ids; send one for each", logit_bias_ids=[1, 2], logit_bias_values=[1.0]),
    bad("allowed_token_ids: 152064 is not a token id", allowed_token_ids=[152064]),
    bad("allowed_token_ids: 1025 values are too many; give at most 1024", allowed_token_ids=list(range(1025))),
    bad("allowed_token_ids: the list is empty; give at least one, or leave it out", allowed_token_ids=[]),
    bad(
        "allowed_token_ids: bad_words and min_tokens forbid all of them; leave one of these out",
        allowed_token_ids=[151645, 151643],
        min_tokens=1,
    ),
    bad(
        "allowed_token_ids: none of them is an end token, with which a guided answer ends; add 151645",
        allowed_token_ids=[5, 6],
        guided_decoding_guide_type="json",
    ),
    bad("truncate_prompt_tokens: 0 leaves nothing of the prompt; give at least 1, or -1", truncate_prompt_tokens=0),
    bad("truncate_prompt_tokens: -2 is out of range", truncate_prompt_tokens=-2),
    bad("truncation_side: 'middle' is unknown; use left or right", truncation_side="middle"),
    ({"input_ids": [1] * 40_000, "truncate_prompt_tokens": 9, "max_tokens": 504}, "max_tokens: 504 with a prompt of 9"),
    (
        {"input_ids": [1] * 40_000, "truncate_prompt_tokens": -1, "max_tokens": 600},
        "max_tokens: 600 with a prompt of 1",
    ),
    bad("embedding_bias_weights: 0 weights for 1 words; send one for each", embedding_bias_words=["a"]),
    bad("num_return_sequences: 0 is out of range; give an integer between 1 and 16", num_return_sequences=0),
    bad("num_return_sequences: 17 is out of range", num_return_sequences=17),
    bad("beam_width: 2 is not served; leave it out or send 1", beam_width=2),
    bad("top_logprobs: 3 needs return_log_probs = true", top_logprobs=3),
    bad("top_logprobs: 21 is out of range", top_logprobs=21, return_log_probs=True),
    guide("guided_decoding_guide_type: 'xml' is unknown; use one of json, json_schema, regex", "xml", "a"),
    guide("guided_decoding_guide_type: missing beside guided_decoding_guide; send both", "", "a"),
    guide("guided_decoding_guide: missing or empty; regex needs one, so send it", "regex", ""),
    guide("guided_decoding_guide: '{}' has no effect with guided_decoding_guide_type = json", "json", "{}"),
    guide("guided_decoding_guide: not JSON", "json_schema", "{"),
    guide(r"guided_decoding_guide: '\[1\]' is not a JSON schema", "json_schema", "[1]"),
    bad(
        "min_tokens: the answer ends where guided_decoding_guide is fulfilled, however short; leave one of them out",
        min_tokens=2,
        guided_decoding_guide_type="json",
    ),
    bad("ignore_eos: the answer ends where", ignore_eos=True, guided_decoding_guide_type="json"),
    bad("end_id: the answer ends where", end_id=-1, guided_decoding_guide_type="json"),
    guide("guided_decoding_guide: 70000 characters are too many", "regex", "a" * 70_000),
]


@pytest.mark.parametrize(("values", "sentence"), [*PROMPTS, *SETTINGS])
def test_one_clear_sentence(values: dict[str, Any], sentence: str, builder: PromptBuilder) -> None:
    with pytest.raises(InvalidRequest) as caught:
        builder.encode(fields(**values))
    refused, line = caught.value, str(caught.value)
    assert re.match(sentence, line), line
    assert "\n" not in line and len(line) < 400
    assert line.startswith(f"{refused.field}: ")


def test_beams_are_unsupported_rather_than_invalid(builder: PromptBuilder) -> None:
    with pytest.raises(Unsupported):
        builder.encode(fields(text_input="a", beam_width=4))


@pytest.mark.parametrize("letter", ["a", " ", "你", "\n"])
def test_a_megabyte_is_refused_in_bounded_time(letter: str, builder: PromptBuilder) -> None:
    start = time.monotonic()
    with pytest.raises(InvalidRequest, match="the prompt has"):
        builder.encode(fields(text_input=letter * (1_000_000 // len(letter.encode()))))
    assert time.monotonic() - start < 20  # one or two seconds alone; the bound is for a crowded machine


@given(data=st.binary(max_size=60))
def test_any_bytes_are_encoded_or_refused(data: bytes, builder: PromptBuilder) -> None:
    for name in ("text_input", "messages"):
        with contextlib.suppress(InvalidRequest):
            assert builder.encode({name: [data]}).ids


KEYS = st.sampled_from(["role", "content", "tool_calls", "function", "name", "arguments", "type", "text"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("user"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(messages=JSON, tools=JSON)
def test_any_json_is_rendered_or_refused(messages: Any, tools: Any, builder: PromptBuilder) -> None:
    for value in (messages, [messages], [{"role": "user", "content": "a"}, messages]):
        with contextlib.suppress(ServingError):
            assert builder.encode(fields(messages=json.dumps(value), tools=json.dumps(tools))).ids
