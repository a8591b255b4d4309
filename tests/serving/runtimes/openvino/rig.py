"""Grammars over a vocabulary that is small enough to see through."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken

from contract.sampling import Guide
from serving.runtimes.openvino.guides import Grammars
from serving.runtimes.openvino.sampling import GrammarState
from tests.byte_tokenizer import byte_tokenizer

PIECES = [
    "<", "tool", "_", "call", ">", "</", ">{", ">\n", "tool_c", '{"', "name", '":', ' "', "weather", '",', "arguments",
    ' {"', "city", '"}}', "}\n", "Köln", "yes", " and", "time", "{}",
]  # fmt: skip


class Rig:
    """A byte-level vocabulary with some longer tokens; ``special``: with Qwen's tokens for the tags."""

    def __init__(self, directory: Path, special: bool) -> None:
        tokenizer = byte_tokenizer(PIECES, ["<|im_end|>"])
        if special:
            tokenizer.add_tokens([AddedToken(t, special=False) for t in ("<tool_call>", "</tool_call>")])
        tokenizer.save(str(directory / "tokenizer.json"))
        self.tokenizer, self.size = tokenizer, tokenizer.get_vocab_size()
        self.end = tokenizer.token_to_id("<|im_end|>")
        self.grammars = Grammars(directory / "tokenizer.json", self.size + 8, [self.end])  # padded, as Qwen's is

    def start(self, guide: str, *, optional: bool = False) -> GrammarState:
        return self.grammars.start(Guide("structural_tag", guide, optional))

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def takes(self, state: GrammarState, text: str) -> int:
        """How many tokens of ``text`` had a mask. Fails when one forbids its token."""
        masked = 0
        for token in self.ids(text):
            mask = state.allowed()
            assert mask is None or mask[token], (text, self.tokenizer.decode([token]))
            masked += mask is not None
            state.accept(token)
        return masked

    def refuses(self, state: GrammarState, text: str) -> bool:
        first = self.ids(text)[0]
        mask = state.allowed()
        return mask is not None and not mask[first]
