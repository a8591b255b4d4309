"""A refusal shows a number as it was sent."""

from __future__ import annotations

import pytest

from serving.gateway.schema.numerals import as_sent

HUGE = "1" + "0" * 30


@pytest.mark.parametrize(
    ("body", "field", "said", "shown"),
    [
        (f'"max_tokens": {HUGE}', "max_tokens", "1e+30", HUGE),
        (f'"n":-{HUGE}', "n", "-1e+30", f"-{HUGE}"),
        (f'"stop_token_ids": [1, {HUGE}]', "stop_token_ids[1]", "1e+30", HUGE),
        (f'"repetition_detection": {{"min_count" : {HUGE}}}', "repetition_detection.min_count", "1e+30", HUGE),
        ('"temperature": 123456789.123456789', "temperature", "123456792.0", "123456789.123456789"),
        ('"temperature": 3.70e0', "temperature", "3.7", "3.70e0"),
        (f'"n": {"7" * 200}', "n", "7.777777777777778e+199", "7" * 79 + "…"),
        ('"n": 17, "metadata": {"n": 5}', "n", "17", "17"),
        (f'"temperature": 5, "user": "\\"temperature\\": {HUGE}"', "temperature", "1e+30", "1e+30"),
        ("", "n", "1e+30", "1e+30"),  # a large body is not kept
        ('"stop": ["1"]', "stop", "65 strings", "65 strings"),
        ('"n": 1.2.3', "n", "17", "17"),
    ],
)
def test_the_callers_own_digits(body: str, field: str, said: str, shown: str) -> None:
    given = as_sent(f"{field}: {said} is out of range; give 1", field, f"{{{body}}}".encode())
    assert given == f"{field}: {shown} is out of range; give 1"
