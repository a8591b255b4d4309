"""Errors name the fields of ``Options``, whichever way the request went."""

from __future__ import annotations

import pytest

from client.option_names import OPTION_OF, in_options
from contract.errors import ConnectError, InvalidRequest, answered
from contract.fields import BY_OPTION


@pytest.mark.parametrize(
    ("said", "option"),
    [
        ("num_return_sequences", "n"), ("stop_words", "stop"), ("logit_bias_ids", "logit_bias"),
        ("logit_bias_values", "logit_bias"), ("guided_decoding_guide", "guide"), ("guided_regex", "guide"),
        ("guided_decoding_guide_type", "guide_type"), ("include_stop_str_in_output", "include_stop"),
        ("random_seed", "seed"), ("return_token_ids", "return_prompt_ids"), ("stop", "stop"), ("n", "n"),
        ("max_tokens", "max_tokens"), ("messages", "messages"), ("text_input", "prompt"), ("input_ids", "prompt"),
    ],
)  # fmt: skip
def test_the_field_and_the_sentence(said: str, option: str) -> None:
    error = in_options(InvalidRequest(said, "0 is out of range"))
    assert isinstance(error, InvalidRequest)
    assert (error.field, str(error)) == (option, f"{option}: 0 is out of range")


def test_what_follows_has_the_same_names() -> None:
    error = in_options(InvalidRequest("top_logprobs", "3 needs return_log_probs = true; set both or neither"))
    assert str(error) == "top_logprobs: 3 needs logprobs = true; set both or neither"


def test_a_path_keeps_its_end() -> None:
    error = in_options(answered("invalid_request", "stop_words[1]: 5 is wrong", "stop_words[1]"))
    assert (getattr(error, "field", ""), str(error)) == ("stop[1]", "stop[1]: 5 is wrong")


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ("guided_regex regex", "guided_regex"), ("guided_decoding_guide_type regex", "guided_decoding_guide_type"),
        ("structured_outputs.structural_tag structural_tag", "structured_outputs.structural_tag"),
        ("response_format json_schema", "response_format"),
    ],
)  # fmt: skip
def test_a_kind_of_guide_that_the_engine_lacks(said: str, field: str) -> None:
    """OpenAI's API has a field for each, and none for some."""
    error = in_options(answered("unsupported", f"{said}: the engine lacks it", field), "json")
    assert (getattr(error, "field", ""), str(error)) == ("guide_type", "guide_type json: the engine lacks it")


def test_what_is_wrong_in_a_guide() -> None:
    error = in_options(answered("invalid_request", "structured_outputs.regex: not closed", "structured_outputs.regex"))
    assert (getattr(error, "field", ""), str(error)) == ("guide", "guide: not closed")


def test_other_errors_stay() -> None:
    assert str(in_options(ConnectError("stop_words: x"))) == "stop_words: x"
    assert set(OPTION_OF.values()) <= {*BY_OPTION, "prompt"} and not set(OPTION_OF) & set(BY_OPTION)
