"""What ends a choice: its finish reason, and the calls that a stop string or a limit cut off."""

from __future__ import annotations

import pytest

from contract.finish import FinishReason
from contract.packed import SequenceOutput
from serving.gateway.core.call_object import CallArguments
from serving.gateway.core.choices import ChoiceState
from serving.gateway.core.tools import ToolParser

CALL = '{"name": "weather", "arguments": {"city": "Paris", "n": 1}}'
OPENED = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris'
HERMES = f"<tool_call>\n{CALL}\n</tool_call>"


@pytest.mark.parametrize(
    ("parser", "text", "ended", "arguments", "finish"),
    [
        (ToolParser("array"), f"[{CALL}]", "stop", '{"city": "Paris", "n": 1}', "tool_calls"),
        (ToolParser("array"), f"[{OPENED.partition('>')[2]}", "stop", '{"city": "', "stop"),
        (ToolParser("array"), '[{"name": "weather", "arguments": {"city": "R', "length", '{"city": "R', "length"),
        (ToolParser("named", "weather"), '{"city": "Paris', "stop", '{"city": "', "stop"),
        (ToolParser("named", "weather"), '{"city": "Rome"}', "stop", '{"city": "Rome"}', "tool_calls"),
        (ToolParser("hermes"), OPENED, "stop", '{"city": "', "stop"),
        (ToolParser("hermes"), f"{HERMES}\nIn Paris", "stop", '{"city": "Paris", "n": 1}', "tool_calls"),
    ],
)  # fmt: skip
def test_a_call_that_a_stop_string_cut_off_is_not_completed(
    parser: ToolParser, text: str, ended: FinishReason, arguments: str, finish: str
) -> None:
    """Whoever runs a completed call would run one that the model never wrote."""
    choice = ChoiceState(0, chat=True, parser=parser, logprobs=False, token_text=lambda _: b"", stops=["Paris"])
    update = choice.update(SequenceOutput(text, ended, 5, 9, 0, 0, 0))
    found = [event.text for event in update.events or [] if isinstance(event, CallArguments)]
    assert "".join(found) == arguments
    assert update.finish == choice.finish == finish
