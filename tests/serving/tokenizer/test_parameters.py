"""What no input has the name of is refused by name, with the one that was meant."""

from __future__ import annotations

from typing import Any

import pytest

from contract.errors import InvalidRequest, Unsupported
from serving.tokenizer.parameters import refuse_parameters, timeout_us


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"return_context_logits": False, "lora_task_id": 0},
        {"id": "a"},
        {"accumulate_tokens": True},
        {"return_perf_metrics": False, "return_num_input_tokens": False, "return_num_output_tokens": False},
    ],
)
def test_what_changes_nothing_is_accepted(parameters: dict[str, Any]) -> None:
    refuse_parameters(parameters)


@pytest.mark.parametrize(
    ("parameters", "sentence", "kind"),
    [
        ({"temprature": 0.5}, "temprature: no such input; did you mean temperature?", InvalidRequest),
        ({"guide_type": "json"}, "guide_type: no such input; did you mean guided_decoding_guide_type?", InvalidRequest),
        ({"n": 2}, "n: no such input; did you mean num_return_sequences?", InvalidRequest),
        ({"logit_bias": {}}, "logit_bias: no such input; did you mean logit_bias_ids?", InvalidRequest),
        (
            {"prompt": "Hi"},
            "prompt: no such input; docs/fields.md lists them",
            InvalidRequest,
        ),  # a text is no input_ids
        ({"xyzzy": None}, "xyzzy: no such input; docs/fields.md lists them", InvalidRequest),
        ({"return_context_logits": True}, "return_context_logits: True is not served; use return_prompt", Unsupported),
        ({"return_num_input_tokens": True}, "return_num_input_tokens: True is not served; prompt_tokens", Unsupported),
        ({"return_perf_metrics": True}, "return_perf_metrics: True is not served; GET /metrics", Unsupported),
        ({"image_url_input": "x"}, "image_url_input: 'x' is not served; the model reads text", Unsupported),
        ({"lora_task_id": 7}, "lora_task_id: 7 is not served; use lora_name", Unsupported),
    ],
)
def test_anything_else_is_refused(parameters: dict[str, Any], sentence: str, kind: type[InvalidRequest]) -> None:
    with pytest.raises(kind) as caught:
        refuse_parameters(parameters)
    assert str(caught.value).startswith(sentence)


def test_a_timeout_is_microseconds_from_either_transport() -> None:
    refuse_parameters({"timeout": 5})
    assert [timeout_us(0, {}), timeout_us(7, {}), timeout_us(0, {"timeout": 5}), timeout_us(0, {"timeout": 0})] == [
        0,
        7,
        5,
        0,
    ]


@pytest.mark.parametrize("given", ["5", -1, 2**63, True, 1.5])
def test_another_timeout_is_refused(given: Any) -> None:
    with pytest.raises(
        InvalidRequest, match=r"^timeout: .* is not a time; give microseconds as an integer, 0 for no bou"
    ):
        timeout_us(0, {"timeout": given})
