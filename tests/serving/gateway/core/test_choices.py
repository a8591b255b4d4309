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


Passed = tuple[list[tuple[str, int]], int, FinishReason, str, str]
PASSED: list[
    Passed
] = [  # texts with their number of ids, the engine's tokens, how it ended; what is shown, what ended it
    ([("a END", 5)], 5, "stop", "a ", "END"),
    ([("a END", 5), ("", 0)], 5, "stop", "a ", "END"),
    ([("a END", 5), (" b END", 3)], 8, "stop", "a END b ", "END"),
    ([("a END", 5)], 6, "stop", "a END", ""),
    ([("a END", 5), ("", 0)], 6, "stop", "a END", ""),
    ([("a END", 5)], 5, "length", "a END", ""),
    ([("a END", 5), (" b", 1)], 6, "length", "a END b", ""),
]


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("case", PASSED)
@pytest.mark.parametrize("keeps_stop", [False, True])
def test_a_stop_string_within_min_tokens_is_text_and_a_later_one_is_named(
    case: Passed, keeps_stop: bool, told: bool
) -> None:
    """``told``: an end token stands among the ids."""
    pieces, tokens, finish, shown, stop = case
    ended = told and finish == "stop" and not stop
    choice = ChoiceState(0, stops=["END", "D"], keeps_stop=keeps_stop, passes_stops=True)
    last = len(pieces) - 1
    found = []
    for at, (text, ids) in enumerate(pieces):
        end = ended and at == last
        got = SequenceOutput(text, finish if at == last else None, 5, tokens, 0, at, 0, bytes(4 * (ids + end)))
        found.append(choice.update(got._replace(ended=end)))
    assert "".join(update.text for update in found) == shown + stop * keeps_stop
    assert [update.stop for update in found] == [""] * last + [stop]
