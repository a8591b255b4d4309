"""What the three steps say to each other. Two formats, both private to the ensemble.

``Job``: tokenizer to engine, JSON in a STRING tensor, once per request.
``Chunk``: engine to detokenizer, one INT32 tensor per response, because every further tensor costs a shared-memory
round trip per chunk. A response holds one chunk, or n of them when n sequences answer in a single response.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from contract.sampling import Guide, Sampling

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TextOptions:
    """What the detokenizer must know of a stream; travels in its first chunk."""

    stops: tuple[str, ...] = ()
    include_stop: bool = False
    min_tokens: int = 0
    echo: str = ""  # the prompt's text, when the caller wants it in front of the answer
    log_probs: bool = False
    packed: bool = False  # answer in one tensor (contract/packed.py)


@dataclass(frozen=True, slots=True)
class Job:
    """One request as the engine step gets it. ``sampling.max_tokens == 0`` means: what the context leaves.

    ``explicit`` names the capabilities that the caller asked for by name. A default from generation_config.json that
    the runtime lacks is dropped; a caller's wish that it lacks is refused.
    """

    sampling: Sampling
    n: int = 1
    stream: bool = True
    text: TextOptions = field(default_factory=TextOptions)
    priority: int = 0
    lora_name: str = ""
    explicit: tuple[str, ...] = ()
    cancel: bool = False  # a `stop` request: cancels the one with the same id

    def to_json(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> Job:
        raw: dict[str, Any] = orjson.loads(data)
        sampling = raw.pop("sampling")
        sampling["guide"] = Guide(**sampling["guide"]) if sampling["guide"] else None
        sampling["stop_token_ids"] = tuple(sampling["stop_token_ids"])
        for name in ("bad_words", "logit_bias"):
            sampling[name] = tuple(map(tuple, sampling[name]))
        text = raw.pop("text")
        text["stops"] = tuple(text["stops"])
        raw["explicit"] = tuple(raw["explicit"])
        return cls(sampling=Sampling(**sampling), text=TextOptions(**text), **raw)


@dataclass(slots=True)
class Chunk:
    """New tokens of one stream. ``seq`` counts its chunks from 1; ``options``, ``top_logprobs`` are JSON or empty."""

    slot: int
    generation: int
    seq: int
    sequence_index: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    finish: int  # index into FINISH_CODES
    ids: list[int]
    log_probs: list[float] = field(default_factory=list)
    options: bytes = b""
    top_logprobs: bytes = b""


HEADER = 12  # INT32 words before the payload


def pack(chunks: list[Chunk]) -> IntArray:
    """One INT32 vector for all chunks of a response."""
    parts = [_pack_one(chunk) for chunk in chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _pack_one(c: Chunk) -> IntArray:
    head = [c.slot, c.generation, c.seq, c.sequence_index, c.prompt_tokens, c.completion_tokens, c.cached_tokens,
            c.finish, len(c.ids), len(c.log_probs), len(c.options), len(c.top_logprobs)]  # fmt: skip
    words = np.array(head + c.ids, dtype=np.int32)
    if not (c.log_probs or c.options or c.top_logprobs):
        return words  # all but a stream's first chunk
    tail = np.array(c.log_probs, dtype=np.float32).tobytes() + _padded(c.options) + _padded(c.top_logprobs)
    return np.concatenate([words, np.frombuffer(tail, dtype=np.int32)])


def _padded(data: bytes) -> bytes:
    return data + b" " * (-len(data) % 4)


def unpack(words: IntArray) -> Iterator[Chunk]:
    """The chunks of one response, in order."""
    at = 0
    while at < len(words):
        *head, ids, probs, options, tops = words[at : at + HEADER].tolist()
        at += HEADER
        chunk = Chunk(*head, words[at : at + ids].tolist())  # type: ignore[call-arg]  # eight words of the header
        at += ids
        if probs:
            chunk.log_probs = words[at : at + probs].view(np.float32).tolist()
            at += probs
        if options:
            chunk.options = words[at : at + (options + 3) // 4].tobytes()[:options]
            at += (options + 3) // 4
        if tops:
            chunk.top_logprobs = words[at : at + (tops + 3) // 4].tobytes()[:tops]
            at += (tops + 3) // 4
        yield chunk


def text_options(data: bytes) -> TextOptions:
    raw = orjson.loads(data)
    raw["stops"] = tuple(raw["stops"])
    return TextOptions(**raw)
