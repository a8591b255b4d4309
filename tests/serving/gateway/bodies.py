"""The request that most tests of the gateway send, and where they send it."""

from __future__ import annotations

from typing import Any

CHAT = "/v1/chat/completions"


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": user(text), **more}
