"""The gateway's tokenizer is read before anybody is served, and its absence stops nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from contract.engine_dir import EngineInfo
from serving.gateway.core.tokens import Tokens
from serving.tokenizer import encoder


def test_prepare_reads_the_tokenizer_once(tmp_path: Path) -> None:
    Tokenizer(BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    tokens = Tokens(tmp_path)
    tokens.prepare()
    (tmp_path / "tokenizer.json").unlink()
    assert tokens.text(0) == b"a"


def test_the_chat_template_needs_no_second_reading(engine: EngineInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading one holds the GIL, for seconds on a busy machine, while the worker's streams wait."""
    tokens = Tokens(engine.path)
    tokens.prepare()
    monkeypatch.setattr(encoder, "Tokenizer", None)
    monkeypatch.setattr(encoder, "json", None)
    ids = tokens.encode_chat([{"role": "user", "content": "hi <|im_end|>"}], [], {})
    assert "hi <|im_end|>" in tokens.decode(ids)


def test_without_a_tokenizer_there_is_nothing_to_prepare(tmp_path: Path) -> None:
    Tokens(None).prepare()
    Tokens(tmp_path).prepare()
