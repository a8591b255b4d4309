"""Grammars at their limits: what llguidance gives up is the request's fault, and said in its words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from contract.errors import InvalidRequest, from_wire
from contract.sampling import Guide, Sampling
from serving.runtimes.base import EngineRequest
from serving.runtimes.openvino.blocks import BlockPool
from serving.runtimes.openvino.engine import Engine
from serving.runtimes.openvino.guides import Grammars
from serving.runtimes.openvino.sampling import GrammarError
from serving.runtimes.openvino.scheduler import ScheduledChunk


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokenizer]:
    """One token per byte, and an end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={text: at for at, text in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    path = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    tokenizer.save(str(path))
    return path, tokenizer


def test_a_schema_of_many_optional_properties_can_be_followed(tokenizer: tuple[Path, Tokenizer]) -> None:
    """Each property is an item of the parser's row; llguidance allows 2,000 by default."""
    path, encoder = tokenizer
    properties = {f"p{number}": {"type": "string", "enum": [f"v{number}"]} for number in range(1300)}
    guide = Guide("json_schema", json.dumps({"type": "object", "properties": properties}))
    state = Grammars(path, 257, [256]).start(guide)
    for token in [*encoder.encode('{"p7": "v7", "p1299": "v1299"}').ids, 256]:
        allowed = state.allowed()
        assert allowed is not None and allowed[token]
        state.accept(token)
    assert state.finished


class GivesUp:
    """A grammar that takes one token."""

    finished = False

    def __init__(self) -> None:
        self.taken = 0

    def allowed(self) -> None:
        return None

    def accept(self, token: int) -> None:
        self.taken += 1
        if self.taken > 1:
            raise GrammarError("it has too many branches")


class Zeros:
    def forward(self, chunks: list[ScheduledChunk]) -> np.ndarray:
        return np.zeros((sum(chunk.rows for chunk in chunks), 257), np.float32)


def test_a_grammar_that_fails_on_the_way_is_the_requests_fault() -> None:
    engine = Engine(Zeros(), BlockPool(16), 4, 256)
    engine.submit(EngineRequest(1, [1, 2, 3], Sampling(8, temperature=0.0)), GivesUp())
    engine.submit(EngineRequest(2, [1, 2, 3], Sampling(2, temperature=0.0)))
    deltas = [delta for _ in range(4) for delta in engine.step()]
    (failed,) = [delta for delta in deltas if delta.finish_reason == "error"]
    problem = from_wire(failed.error)
    assert isinstance(problem, InvalidRequest) and str(problem) == "guided_decoding_guide: it has too many branches"
    assert [delta.finish_reason for delta in deltas if delta.sequence_id == 2] == [None, "length"]
