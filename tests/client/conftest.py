from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.fake_triton import FakeTriton


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    """A fake Triton of its own for each test: its records are the test's."""
    triton = FakeTriton().start()
    yield triton
    triton.stop()
