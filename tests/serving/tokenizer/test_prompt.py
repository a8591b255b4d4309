"""The tokenizer step: golden renderings, defaults, and one clear sentence for every bad input."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from contract.engine_dir import EngineInfo
from contract.errors import EngineDirectoryError, InvalidRequest
from contract.sampling import Guide
from serving.tokenizer.inputs import Tensors
from serving.tokenizer.prompt import Encoded, PromptBuilder

QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
IM_END, END_OF_TEXT = 151645, 151643
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Météo", "parameters": {"type": "object", "properties": {}}},
}


def fields(**values: Any) -> Tensors:
    """Strings become bytes, lists stay: as Triton gives them."""
    as_list = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    return {name: [v.encode() if isinstance(v, str) else v for v in vs] for name, vs in as_list.items()}


def encode(builder: PromptBuilder, **values: Any) -> Encoded:
    return builder.encode(fields(**values))


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
    """By lines, as in vLLM and trtllm-serve: words of two parts would run together."""
    parts = [{"type": "text", "text": "Hello,"}, {"type": "text", "text": "world"}]
    whole = rendered(builder, tokenizer, [{"role": "user", "content": "Hello,\nworld"}])
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
        "<|im_start|>assistant\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n"
        "<tool_response>\n12 °C\n</tool_response>\n<tool_response>\nrain\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("replayed", "rendered_as"),
    [
        ('{"city": "Par', '{"city": "Par"}'), ('{"city": "Paris"}}', '{"city": "Paris"}'), ("", "{}"), ("null", "{}"),
        (None, "{}"), ("not json", '"not json"'),
        ("[" * 120 + "]" * 120, '"' + "[" * 120 + "]" * 120 + '"'),
    ],
)  # fmt: skip
def test_a_replayed_call_that_was_cut_off_can_be_answered(
    replayed: Any, rendered_as: str, builder: PromptBuilder, tokenizer: Tokenizer
) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": replayed}}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    messages += [{"role": "user", "content": "Go on."}]
    text = rendered(builder, tokenizer, messages, tools=json.dumps([WEATHER]))
    assert f'{{"name": "weather", "arguments": {rendered_as}}}' in text


def test_text_input_is_sent_as_it_is(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    ids = encode(builder, text_input="<|im_start|>user\nHi").ids
    assert ids == tokenizer.encode("<|im_start|>user\nHi", add_special_tokens=False).ids


@pytest.mark.parametrize("ids", [[0, 0, 0, 0, 0], [151643, 40, 40], list(range(5000, 5100)), [152063]])
def test_ids_are_sent_as_they_are(ids: list[int], builder: PromptBuilder) -> None:
    encoded = encode(builder, input_ids=ids, return_prompt_ids=True)
    assert encoded.ids == ids and encoded.job.text.prompt_ids


def test_the_text_of_ids_is_echoed_on_request(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|im_start|>Hi 你好", add_special_tokens=False).ids
    echo = encode(builder, input_ids=ids, exclude_input_in_output=False).job.text.echo
    assert echo == "<|im_start|>Hi 你好"


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
        ({"end_id": 152_063}, (IM_END, END_OF_TEXT, 152_063)),
        ({"end_id": 1_048_576, "pad_id": 1_048_576}, ()),  # SGLang's load test for TensorRT-LLM
    ],
)
def test_end_tokens(values: dict[str, Any], expected: tuple[int, ...], builder: PromptBuilder) -> None:
    assert encode(builder, text_input="Hi", **values).job.sampling.stop_token_ids == expected


def test_top_p_zero_and_top_k_without_effect(builder: PromptBuilder) -> None:
    """vLLM takes any ``top_k``: clients written for one vocabulary send theirs to the next."""
    assert encode(builder, text_input="Hi", top_p=0.0).job.sampling.temperature == 0
    for top_k, kept in ((-1, 0), (152_063, 152_063), (152_064, 0), (2**31 - 1, 0)):
        assert encode(builder, text_input="Hi", top_k=top_k).job.sampling.top_k == kept


def test_nvidias_names_mean_the_same(builder: PromptBuilder) -> None:
    job = encode(builder, text_input="Hi", random_seed=9, min_length=3, length_penalty=0.5, early_stopping=1).job
    assert (job.sampling.seed, job.sampling.min_tokens) == (9, 3) and set(job.explicit) == {"seed", "min_tokens"}


def test_nvidias_empty_strings_mean_none(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    job = encode(builder, text_input="Hi", stop_words=[""], bad_words=[""], lora_name="").job
    assert (job.text.stops, job.sampling.bad_words, job.lora_name) == ((), (), "")


def test_bad_words_are_ids_with_and_without_a_leading_space(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    words = encode(builder, text_input="Hi", bad_words=["secret"]).job.sampling.bad_words
    forms = {tuple(tokenizer.encode(form, add_special_tokens=False).ids) for form in ("secret", " secret")}
    assert set(words) == forms


def test_biases_are_pairs(builder: PromptBuilder) -> None:
    job = encode(builder, text_input="Hi", logit_bias_ids=[7, 9], logit_bias_values=[-100.0, 2.5]).job
    assert job.sampling.logit_bias == ((7, -100.0), (9, 2.5)) and "logit_bias" in job.explicit


def test_only_allowed_ids_go_on_and_need_an_engine_that_has_the_field(builder: PromptBuilder) -> None:
    job = encode(builder, text_input="Hi", allowed_token_ids=[7, IM_END], guided_decoding_guide_type="json").job
    assert job.sampling.guide == Guide("json", '{"type":"object"}')  # what OpenAI and vLLM call a JSON object
    assert job.sampling.allowed_token_ids == (7, IM_END) and "allowed_token_ids" in job.explicit
    assert encode(builder, text_input="Hi").job.explicit == ()


@pytest.mark.parametrize(
    ("asked", "kept"),
    [({"truncate_prompt_tokens": 3}, slice(-3, None)), ({"truncate_prompt_tokens": 10_000}, slice(None)),
     ({"truncate_prompt_tokens": 3, "truncation_side": "right"}, slice(3)), ({"truncation_side": "right"}, slice(None)),
     ({"truncate_prompt_tokens": -1}, slice(None))],
)  # fmt: skip
def test_a_prompt_is_cut_to_its_last_or_first_tokens(
    asked: dict[str, Any], kept: slice, builder: PromptBuilder, tokenizer: Tokenizer
) -> None:
    """As vLLM's: of the rendered prompt, whichever way it came; what is echoed is what the engine gets."""
    messages = json.dumps([{"role": "user", "content": "Hi <|im_end|> there"}])
    for prompt in ({"text_input": "one two three four five"}, {"messages": messages}, {"input_ids": list(range(30))}):
        whole = encode(builder, **prompt).ids
        cut = encode(builder, **prompt, **asked, exclude_input_in_output=False)
        assert cut.ids == whole[kept]
        if len(cut.ids) < len(whole):
            assert cut.job.text.echo == tokenizer.decode(cut.ids, skip_special_tokens=False)


@pytest.mark.parametrize(("max_tokens", "left"), [({}, 511), ({"max_tokens": 12}, 500), ({"max_tokens": 512}, 1)])
def test_a_prompt_beyond_the_context_is_cut_to_what_the_answer_leaves(
    max_tokens: dict[str, int], left: int, builder: PromptBuilder
) -> None:
    ids = list(range(1000))
    if left == 1:
        with pytest.raises(InvalidRequest, match=r"^max_tokens: 512 with a prompt of 1 tokens"):
            encode(builder, input_ids=ids, truncate_prompt_tokens=-1, **max_tokens)
    else:
        assert encode(builder, input_ids=ids, truncate_prompt_tokens=-1, **max_tokens).ids == ids[-left:]
        text = " word" * 1000
        assert len(encode(builder, text_input=text, truncate_prompt_tokens=-1, **max_tokens).ids) == left


def test_biased_words_are_their_tokens(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    """As NVIDIA's preprocessing: every token of a word gets its weight, those of two words both."""
    first, second = (tokenizer.encode(word, add_special_tokens=False).ids for word in ("secret", "secretly"))
    values = {"embedding_bias_words": ["secret", "secretly"], "embedding_bias_weights": [2.0, -5.0]}
    job = encode(builder, text_input="Hi", logit_bias_ids=first[:1], logit_bias_values=[1.0], **values).job
    expected = dict.fromkeys([*first, *second], 0.0)
    for ids, weight in ((first, 2.0), (second, -5.0), (first[:1], 1.0)):
        for token in ids:
            expected[token] += weight
    assert dict(job.sampling.logit_bias) == expected and "logit_bias" in job.explicit


def test_an_answer_can_go_on_where_the_last_message_ends(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "Poem"}, {"role": "assistant", "content": "Roses are"}]
    text = rendered(builder, tokenizer, messages, continue_final_message=True)
    assert text.endswith("<|im_start|>user\nPoem<|im_end|>\n<|im_start|>assistant\nRoses are")


def test_the_generation_prompt_can_be_left_out(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    text = rendered(builder, tokenizer, [{"role": "user", "content": "Poem"}], add_generation_prompt=False)
    assert text.endswith("<|im_start|>user\nPoem<|im_end|>\n")


def test_the_prompt_is_echoed_on_request(builder: PromptBuilder) -> None:
    assert encode(builder, text_input="Hi", exclude_input_in_output=False).job.text.echo == "Hi"
    assert encode(builder, text_input="Hi").job.text.echo == ""


def test_a_cancel_needs_no_prompt(builder: PromptBuilder) -> None:
    assert encode(builder, stop=True).job.cancel


def test_a_chat_template_that_an_edit_broke_ends_the_start(engine: EngineInfo, tmp_path: Path) -> None:
    """Every chat would be refused, as if its messages were wrong."""
    path = shutil.copytree(engine.path, tmp_path / "edited")
    (path / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(EngineDirectoryError, match=rf"the chat template of {path} refuses .*\(.*\): correct it, or"):
        PromptBuilder(replace(engine, path=path))
