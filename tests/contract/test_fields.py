"""The table of request fields: sound in itself, and equal to what is written from it."""

from __future__ import annotations

import dataclasses

import pytest

from client.types import Options
from contract.fields import BY_OPTION, FIELD_OF_TENSOR, FIELDS, Field
from contract.generate import PARTS, filled
from contract.paths import ROOT
from contract.sampling import Sampling


@pytest.mark.parametrize("name", PARTS)
def test_the_file_is_as_the_table_says(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert filled(text, PARTS[name]) == text, "run: make fields"


def test_a_part_without_its_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="inputs: 0 places are marked"):
        filled("platform: x\n", {"inputs": lambda: ""})


def test_no_name_stands_for_two_fields() -> None:
    names = [name for field in FIELDS for name in field.names]
    assert len(names) == len(set(names)) == len(FIELD_OF_TENSOR)
    assert len(BY_OPTION) == sum(1 for field in FIELDS if field.option)


def test_every_setting_and_option_has_a_row() -> None:
    assert {field.name for field in dataclasses.fields(Options)} == set(BY_OPTION)
    scalars = {field.name for field in FIELDS if field.sampling}
    composed = {"max_tokens", "stop_token_ids", "bad_words", "logit_bias", "logprobs", "prompt_logprobs", "guide"}
    composed |= {"allowed_token_ids"}
    assert {field.name for field in dataclasses.fields(Sampling)} == scalars | composed


@pytest.mark.parametrize("field", [f for f in FIELDS if not f.repeated], ids=lambda f: f.name)
def test_defaults_lie_in_their_range(field: Field) -> None:
    if isinstance(field.default, (int, float)) and isinstance(field.low, (int, float)):
        assert field.low <= field.default
        assert isinstance(field.high, str) or field.high is None or field.default <= field.high
