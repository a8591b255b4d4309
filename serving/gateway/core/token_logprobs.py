"""Log probabilities of one choice in OpenAI's two forms: a chat's and a completion's. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from contract.packed import SequenceOutput
from serving.gateway.core.prompt_scores import ScoredToken

TokenText = Callable[[int], bytes]  # a token's bytes
_utf8 = codecs.getincrementaldecoder("utf-8")
_Row = tuple[int, float | None, Sequence[Any]]  # token, log probability, alternatives


class TokenLogprobs:
    """``of`` each response of a choice, in order: a completion's offsets go on from one to the next."""

    def __init__(
        self, token_text: TokenText, *, chat: bool, echoed_tops: int | None = None, by_id: bool = False
    ) -> None:
        """``echoed_tops``: a completion's begin with those of the prompt, with this many alternatives. ``by_id``: they
        are called ``token_id:123``, because several tokens may have the same text."""
        self._token_text, self._chat, self._echoed_tops, self._by_id = token_text, chat, echoed_tops, by_id
        self._characters, self._offset = _utf8("replace"), 0

    def of(self, got: SequenceOutput, scored: Sequence[ScoredToken]) -> dict[str, Any]:
        """``scored``: the tokens of the prompt whose scores came with this response."""
        ids, tops = got.token_ids, orjson.loads(got.tops or b"[]")
        tops += [[]] * (len(ids) - len(tops))
        rows = list(zip(ids, got.token_log_probs, tops, strict=True))
        if self._chat:
            return self._of_chat(rows)
        most = self._echoed_tops
        echoed: list[_Row] = [] if most is None else [(s.token, s.logprob, s.top[:most]) for s in scored]
        return self._of_completion([*echoed, *rows])

    def _of_chat(self, rows: list[tuple[int, float, list[Any]]]) -> dict[str, Any]:
        content = [
            {**self._scored(i, p), "top_logprobs": [self._scored(*entry) for entry in top]} for i, p, top in rows
        ]
        return {"content": content, "refusal": None}

    def _scored(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._token_text(token)
        name = self._named(token) if self._by_id else raw.decode(errors="replace")
        return {"token": name, "logprob": logprob, "bytes": list(raw)}

    def _of_completion(self, rows: list[_Row]) -> dict[str, Any]:
        texts = [self._named(i) for i, _, _ in rows]
        offsets = []
        for i, _, _ in rows:  # over tokens: text may be held back for a stop; a split character counts with its last
            offsets.append(self._offset)
            self._offset += len(self._characters.decode(self._token_text(i)))
        tops = [
            None if score is None else {self._named(i): p for i, p in [(chosen, score), *top]}  # in vLLM's order
            for chosen, score, top in rows
        ]
        return {
            "tokens": texts,
            "token_logprobs": [p for _, p, _ in rows],
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _named(self, token: int) -> str:
        """A token as a dictionary key. Partial characters are spelled as OpenAI does; decoded they would collide."""
        if self._by_id:
            return f"token_id:{token}"
        raw = self._token_text(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
