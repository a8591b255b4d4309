"""Keys as people keep and pass them."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import AsyncClient, Client
from contract import key_file


def test_a_key_of_a_file_may_end_its_line_and_follow_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"\xef\xbb\xbf" + b"k" * 48 + b"\r\n")
    assert key_file.read(path) == ("k" * 48,)
    assert key_file.checked(" secret\r\n", "KEY") == "secret" and key_file.checked("\n", "KEY") == ""


@pytest.mark.parametrize("key", ["two words", "two\nlines", "sécret", "a\x00b"])
def test_a_key_that_no_header_holds_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(ValueError, match=r"^KEY: ") as told:
        key_file.checked(key, "KEY")
    assert key not in str(told.value) and "\n" not in str(told.value)
    for client in (Client, AsyncClient):
        for address in ("127.0.0.1:1", "http://127.0.0.1:1"):
            with pytest.raises(ValueError, match=r"^api_key: "):
                client(address, api_key=key)
