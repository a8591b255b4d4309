"""A prompt that fills the context of 8,192 tokens, with a sentence hidden in it: the engine gives ``transformers`` own
tokens, cold, cached, in small steps, beside others and preempted. Whether the small model finds the sentence is its own
affair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from build_engine.openvino.build import MODEL_FILE
from contract.paths import ROOT
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest
from serving.runtimes.openvino.blocks import BlockPool
from serving.runtimes.openvino.engine import Engine
from serving.runtimes.openvino.model import PagedModel
from tests.oracle import expected

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(1800)]
CONTEXT, ANSWER, BLOCKS = 8192, 24, 1200
COMPANY = 100  # tokens of the other answers: they take further blocks while the long prompt is read, and later
TIGHT = {280: "preempted while it is read", 283: "preempted while it answers"}  # KV blocks; the prompt has 256
NEEDLE = "\n\nThe secret word of the lighthouse keeper is marzipan.\n\n"
QUESTION = (
    "\n\nWhat is the secret word of the lighthouse keeper?<|im_end|>\n<|im_start|>assistant\nThe secret word of the"
)


@pytest.fixture(scope="module")
def prompt(engine_dir: Path) -> list[int]:
    """The project's own documents around the needle, filled up to the last token that leaves room for the answer."""
    tokenizer = Tokenizer.from_file(str(engine_dir / "tokenizer.json"))

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    hay = ids("\n".join((ROOT / name).read_text() for name in ("LICENSE", "docs/building.md", "docs/gateway.md")))
    head, needle, question = ids("<|im_start|>user\n"), ids(NEEDLE), ids(QUESTION)
    room = CONTEXT - ANSWER - len(head) - len(needle) - len(question)
    assert len(hay) >= room
    return [*head, *hay[: room * 3 // 4], *needle, *hay[room * 3 // 4 : room], *question]


def test_a_prompt_that_fills_the_context_is_answered_as_transformers_answers(
    reference: Any, engine_dir: Path, prompt: list[int]
) -> None:
    wanted = expected.greedy(reference, prompt, ANSWER)
    model = PagedModel(engine_dir / MODEL_FILE, "fp32")
    model.allocate(BLOCKS)

    def answers(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
        for number, each in enumerate(prompts):
            tokens = ANSWER if each is prompt else COMPANY
            engine.submit(EngineRequest(number, each, Sampling(tokens, temperature=0.0, ignore_eos=True)))
        got: list[list[int]] = [[] for _ in prompts]
        while engine.busy:
            for delta in engine.step():
                got[delta.sequence_id] += delta.token_ids
        return got

    engine = Engine(model, BlockPool(BLOCKS), 16, CONTEXT)
    company = [prompt[start : start + 200] for start in (0, 1000, 2000)]
    assert answers(engine, [prompt]) == [wanted], "cold"
    assert answers(engine, [prompt, *company])[0] == wanted, "cached, in company"
    small = Engine(model, BlockPool(BLOCKS), 16, CONTEXT, step_tokens=96)
    assert answers(small, [*company, prompt])[-1] == wanted, "in small steps, in company"
    for blocks, how in TIGHT.items():
        tight = Engine(model, BlockPool(blocks), 16, CONTEXT)
        assert answers(tight, [*company, prompt])[-1] == wanted, how
        assert tight.stats().preemptions == 1, how
    found = Tokenizer.from_file(str(engine_dir / "tokenizer.json")).decode(wanted)
    print(f"\n{len(prompt)} tokens: {found!r}")
