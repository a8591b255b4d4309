"""Tokenizer work done in the gateway: bytes of log-prob tokens, /tokenize, /detokenize."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract import byte_alphabet
from contract.errors import ServingError
from serving.gateway.schema.errors import ApiError, bad_request

if TYPE_CHECKING:
    from serving.tokenizer.encoder import Encoder
    from serving.tokenizer.prompt import PromptBuilder


class Tokens:
    """The tokenizer. ``prepare`` loads it before anybody is served. Chat templates need transformers, whose import
    takes seconds: it is loaded at first use, in a thread (``load``)."""

    def __init__(self, engine: Path | None) -> None:
        self._engine = engine
        self._pieces: dict[int, bytes] = {}

    def prepare(self) -> None:
        """Reading tokenizer.json keeps every other thread of the process waiting, for a second with 150,000 tokens."""
        if self._engine is not None and (self._engine / "tokenizer.json").is_file():
            _ = self._encoder

    async def load(self, *, template: bool = False) -> None:
        await asyncio.to_thread(getattr, self, "_builder" if template else "_encoder")

    @cached_property
    def _encoder(self) -> Encoder:
        from serving.tokenizer.encoder import Encoder

        return Encoder(self._directory / "tokenizer.json")

    @cached_property
    def _builder(self) -> PromptBuilder:
        from contract import engine_dir
        from serving.tokenizer.prompt import PromptBuilder

        return PromptBuilder(engine_dir.read(self._directory), self._encoder)

    @property
    def _directory(self) -> Path:
        if self._engine is None:
            raise ApiError(503, "tokenizer: the gateway has no ENGINE_DIR; start it through `make serve`")
        return self._engine

    @cached_property
    def info(self) -> dict[str, Any]:
        """The checkpoint's tokenizer_config.json with its chat template, special tokens as text."""
        config: dict[str, Any] = json.loads((self._directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        template = self._directory / "chat_template.jinja"
        if template.is_file():
            config["chat_template"] = template.read_text(encoding="utf-8")
        plain = {k: v["content"] for k, v in config.items() if isinstance(v, dict) and "content" in v}
        return {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": None, **config, **plain}

    def name(self, token: int) -> str:
        """A token as the vocabulary writes it (``Ġis``), which loses no byte of half a character."""
        return self._encoder.tokenizer.id_to_token(token) or ""

    def text(self, token: int) -> bytes:
        """A token's bytes; they need not be whole characters. Unknown ids are ``b""``."""
        if token not in self._pieces:
            piece = self.name(token)
            plain = all(c in byte_alphabet.BYTES for c in piece)
            self._pieces[token] = bytes(byte_alphabet.BYTES[c] for c in piece) if plain else piece.encode()
        return self._pieces[token]

    def encode(self, text: str) -> list[int]:
        return self._encoder.encode(text)

    def encode_chat(
        self, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]], flags: Mapping[str, bool]
    ) -> list[int]:
        given: dict[str, list[Any]] = {name: [value] for name, value in flags.items()}
        given["messages"] = [json.dumps(messages, ensure_ascii=False).encode()]
        if tools:
            given["tools"] = [json.dumps(list(tools), ensure_ascii=False).encode()]
        try:
            return self._builder.encode(given).ids
        except ServingError as error:
            raise ApiError(400, str(error), param="messages") from None

    def decode(self, ids: list[int]) -> str:
        """Raises ``ApiError`` for an id outside the vocabulary."""
        tokenizer = self._encoder.tokenizer
        top = tokenizer.get_vocab_size() - 1
        bad = next((i for i in ids if not 0 <= i <= top or tokenizer.id_to_token(i) is None), None)
        if bad is not None:
            raise bad_request("tokens", f"{bad} is not a token id; give integers from 0 to {top}")
        return self._encoder.decode(ids)
