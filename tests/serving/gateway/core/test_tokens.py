"""The gateway's tokenizer is read before anybody is served, and its absence stops nobody."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE

from serving.gateway.core.tokens import Tokens


def test_prepare_reads_the_tokenizer_once(tmp_path: Path) -> None:
    Tokenizer(BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    tokens = Tokens(tmp_path)
    tokens.prepare()
    (tmp_path / "tokenizer.json").unlink()
    assert tokens.text(0) == b"a"


def test_without_a_tokenizer_there_is_nothing_to_prepare(tmp_path: Path) -> None:
    Tokens(None).prepare()
    Tokens(tmp_path).prepare()
