"""What editors and other programs write into text files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contract import user_text


def test_a_byte_order_mark_and_other_line_ends_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\r\n')
    assert list(user_text.json_lines(user_text.read(path))) == [(1, {"a": 1}), (3, {"a": 2})]


def test_a_line_ends_at_its_end_alone() -> None:
    odd = "a\u2028b\u0085c\x7f"
    assert list(user_text.json_lines(json.dumps(odd, ensure_ascii=False) + "\n")) == [(1, odd)]


@pytest.mark.parametrize("line", ["{", "[" * 100_000, "\ufeff1"])
def test_what_is_wrong_is_named_with_its_line(line: str) -> None:
    with pytest.raises(ValueError, match=r"^line 2: "):
        list(user_text.json_lines(f"1\n{line}\n"))
