"""The tables of docs/gateway.md match the code."""

from __future__ import annotations

from serving.gateway.schema import coverage


def test_the_documents_tables_are_the_codes() -> None:
    text = coverage.DOCUMENT.read_text(encoding="utf-8")
    assert coverage.filled(text) == text, "run: make fields"
    assert text.count("| `messages` |") == 2, "a chat's, and the refusal of /v1/responses that says input"
