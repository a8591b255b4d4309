"""The session's server and what its simulated engine will say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from serving.launch.config import SIMULATED_ENGINE
from serving.runtimes.simulated import tokens
from tests.conftest import Server
from tests.decoding import cut_text


@pytest.fixture(scope="session", autouse=True)
def _engine(simulated_engine: Path) -> None:
    """No test measures how long it takes to make one."""


@pytest.fixture(scope="session")
def tokenizer(server: Server) -> Tokenizer:
    """The server made the engine directory if it was not there."""
    return Tokenizer.from_file(str(SIMULATED_ENGINE / "tokenizer.json"))


@pytest.fixture(scope="session")
def says(tokenizer: Tokenizer) -> Callable[[str, int, int], str]:
    """``says(prompt, seed, count)``: the simulated engine's text, without half a character at its end."""

    def text(prompt: str, seed: int, count: int) -> str:
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        return cut_text(tokenizer, tokens(ids, seed, count))

    return text
