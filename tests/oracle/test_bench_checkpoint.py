"""The random checkpoint of `make bench-gpu`, in small."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from loadtest.bench.gpu.engines import checkpoint

pytestmark = pytest.mark.oracle


def test_no_answer_holds_a_token_that_the_tokenizer_lacks(tmp_path: Path) -> None:
    """vLLM's frontend in Rust ended half of the answers of 256 tokens at one: "unknown token ID"."""
    from safetensors.torch import load_file

    directory = checkpoint(tmp_path / "checkpoint", small=True)
    tokens = Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size()
    tensors = {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}
    head, embedding = tensors["lm_head.weight"].float(), tensors["model.embed_tokens.weight"].float()
    assert len(head) > tokens
    likeliest = (embedding[:2000] @ head.T).topk(3).indices
    assert int(likeliest.max()) < tokens
