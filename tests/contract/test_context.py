"""What fits the context, in one sentence whichever step asks."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from contract.context import room
from contract.errors import ContextTooLong


class Limits(NamedTuple):
    max_input_len: int
    max_seq_len: int


@pytest.mark.parametrize(("prompt", "answer", "left"), [(70, 30, 30), (80, 20, 20), (80, 0, 20), (1, 1, 99)])
def test_what_fits(prompt: int, answer: int, left: int) -> None:
    assert room(Limits(80, 100), "messages", prompt, answer) == left


@pytest.mark.parametrize(
    ("limits", "prompt", "answer", "says"),
    [
        (Limits(80, 100), 81, 1, r"^messages: the prompt has 81 tokens, the context is 100 and a prompt may take 80; "),
        (Limits(100, 100), 100, 0, r"^messages: the prompt has 100 tokens, .* may take 99; "),
        (Limits(80, 100), 70, 31, r"^max_tokens: 31 with a prompt of 70 tokens .* 100 tokens; use at most 30$"),
    ],
)
def test_what_does_not(limits: Limits, prompt: int, answer: int, says: str) -> None:
    with pytest.raises(ContextTooLong, match=says):
        room(limits, "messages", prompt, answer)
