"""What ends a choice: its finish reason, and the calls that a stop string or a limit cut off."""

from __future__ import annotations

import pytest

from contract.finish import FinishReason
from contract.packed import SequenceOutput
from serving.gateway.core.call_object import CallArguments
from serving.gateway.core.choices import ChoiceState, ChoiceUpdate
from serving.gateway.core.tools import Content, Framing, ToolParser

CALL = '{"name": "weather", "arguments": {"city": "Paris", "n": 1}}'
OPENED = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris'
HERMES = f"<tool_call>\n{CALL}\n</tool_call>"


Case = tuple[Framing, str, FinishReason, str, str]
CASES: list[Case] = [  # text, how it ended; the arguments and the finish reason that a client gets
    ("array", f"[{CALL}]", "stop", '{"city": "Paris", "n": 1}', "tool_calls"),
    ("array", f"[{OPENED.partition('>')[2]}", "stop", '{"city": "', "stop"),
    ("array", '[{"name": "weather", "arguments": {"', "stop", '{"', "stop"),
    ("array", '[{"name": "', "stop", "", "stop"),
    ("array", '[{"name": "weather", "arguments": {"city": "R', "length", '{"city": "R', "length"),
    ("named", '{"city": "Paris', "stop", '{"city": "', "stop"),
    ("named", '{"city" : "', "stop", '{"city" : "', "stop"),
    ("named", '{"city": "Rome"}', "stop", '{"city": "Rome"}', "tool_calls"),
    ("hermes", OPENED, "stop", '{"city": "', "stop"),
    ("hermes", f"{HERMES}\nIn Paris", "stop", '{"city": "Paris", "n": 1}', "tool_calls"),
]


def updates(case: Case, pieces: list[str], stops: list[str]) -> list[ChoiceUpdate]:
    """As the engine sends it: the finish reason may come with the last text, or behind it."""
    framing, _, ended, *_ = case
    parser = ToolParser(framing, "weather")
    choice = ChoiceState(0, parser=parser, stops=stops, may_stop=True)
    last = len(pieces) - 1
    return [
        choice.update(SequenceOutput(text, ended if at == last else None, 5, 9, 0, at, 0))
        for at, text in enumerate(pieces)
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1][-12:]} {case[2]}")
def test_a_call_that_a_stop_string_cut_off_is_not_completed(case: Case) -> None:
    """Whoever runs a completed call would run one that the model never wrote."""
    _, text, _, arguments, finish = case
    without = text.removesuffix("Paris")
    ways = [([text], ["Paris"]), ([without], []), ([without, ""], [])]  # with the stop string left in the text, or not
    ways += [([text, ""], ["Paris"])] * text.endswith("Paris")
    ways += [([without[:at], without[at:], ""], []) for at in range(1, len(without))]
    if text.endswith("In Paris"):
        ways = ways[:3]
    for pieces, stops in ways:
        found = updates(case, pieces, stops)
        events = [event for update in found for event in update.events or []]
        assert "".join(event.text for event in events if isinstance(event, CallArguments)) == arguments, pieces
        assert found[-1].finish == finish, pieces
        if case[0] != "hermes":
            assert not any(isinstance(event, Content) for event in events), "a forced call is never text"


def test_a_call_without_its_last_brackets_is_completed_where_nothing_can_have_cut_it() -> None:
    choice = ChoiceState(0, parser=ToolParser("hermes"))
    update = choice.update(SequenceOutput(HERMES.partition("}")[0], "stop", 5, 9, 0, 0, 0))
    arguments = [event.text for event in update.events or [] if isinstance(event, CallArguments)]
    assert update.finish == "tool_calls" and "".join(arguments) == '{"city": "Paris", "n": 1}'
