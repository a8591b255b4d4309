"""How much KV memory the worker takes."""

from __future__ import annotations

import psutil
import pytest

from serving.runtimes.openvino.worker import DEFAULT_KV_BYTES, kv_blocks

BLOCK = 1 << 20


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=10 << 30))


def test_what_was_asked_for_is_given() -> None:
    assert kv_blocks(BLOCK, 32768, 100 * BLOCK) == 100
    assert kv_blocks(BLOCK, 32768, 1) == 2


def test_default_holds_two_contexts_within_reason() -> None:
    assert kv_blocks(BLOCK, 32, None) == DEFAULT_KV_BYTES // BLOCK
    assert kv_blocks(BLOCK, 32768, None) == 2048
    assert kv_blocks(BLOCK, 131072, None) == int(0.4 * 10 * 1024)
