"""Readiness means that a token can be generated, not only that the models are loaded."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from contract.direct_http import DIRECT

CANARY = {"text_input": "Hello", "max_tokens": 1, "temperature": 0.0, "ignore_eos": True}


def _open(url: str, body: dict[str, Any] | None, timeout: float) -> bytes:
    data = json.dumps(body).encode() if body is not None else None
    with DIRECT.open(urllib.request.Request(url, data=data), timeout=timeout) as response:
        content: bytes = response.read()
        return content


def answers(url: str) -> bool:
    """200 within a second."""
    try:
        _open(url, None, 1.0)
    except OSError:
        return False
    return True


def is_ready(base: str) -> bool:
    """Triton reports that all models are loaded."""
    return answers(f"{base}/v2/health/ready")


def generates(base: str, timeout: float) -> str:
    """Ask the ensemble for one token. "" when it came, else what went wrong."""
    try:
        answer = json.loads(_open(f"{base}/v2/models/qwen/generate", CANARY, timeout))
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace")[:500]
    except (OSError, ValueError) as error:
        return str(error)
    return "" if answer.get("completion_tokens") == 1 else f"unexpected answer: {answer}"
