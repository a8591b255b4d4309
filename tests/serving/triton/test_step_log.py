"""What a caller names its request makes no line of the log and no command to a terminal."""

from __future__ import annotations

import io
import logging

import pytest

from serving.triton.step_log import OneLine


@pytest.mark.parametrize(
    ("request_id", "shown"),
    [("a1", "a1"), ("evil\nengine ERROR forged", r"evil\nengine ERROR forged"), ("\x1b[31m", r"\x1b[31m"),
     ("\x001", r"\x001"), ("a\u2028b\x85c", r"a\u2028b\x85c"), ("名字", "名字")],
)  # fmt: skip
def test_a_requests_id_stays_in_its_line(request_id: str, shown: str) -> None:
    log, written = logging.Logger("step"), io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(OneLine("engine %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.info("request %s: gone", request_id)
    assert written.getvalue() == f"engine INFO request {shown}: gone\n"


def test_a_traceback_keeps_its_lines() -> None:
    log, written = logging.Logger("step"), io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(OneLine("%(message)s"))
    log.addHandler(handler)
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("request %s", "a\nb")
    first, *lines = written.getvalue().splitlines()
    assert first == r"request a\nb" and lines[0].startswith("Traceback") and lines[-1] == "ValueError: why"
