"""The two formats in which the ensemble's steps pass on a request and its tokens. Both are private to the ensemble.

``Job``: tokenizer to engine, JSON in a STRING tensor, once per request.
Chunks: engine to detokenizer, one INT32 tensor per response, because every further tensor costs a shared-memory round
trip per chunk. The engine packs a sequence's new tokens directly (``pack``); the detokenizer reads them as a ``Chunk``.
A response holds one chunk, or n of them when n sequences answer in a single response.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from contract.finish import FINISH_CODES
from contract.sampling import Guide, Sampling

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TextOptions:
    """What the detokenizer must know about a sequence; travels in its first chunk."""

    stops: tuple[str, ...] = ()
    include_stop: bool = False
    min_tokens: int = 0
    echo: str = ""  # the prompt's text, when the caller wants it in front of the answer
    log_probs: bool = False
    prompt_ids: bool = False  # the prompt's token ids in the first response
    end_token: bool = False  # the token that ends the answer is the last of its ids
    silent: bool = False  # max_tokens = 0: the engine's one token is not shown
    packed: bool = False  # answer in one tensor (contract/packed.py)
    resume_ids: tuple[int, ...] = ()  # the answer's first ids, which the caller has; their text is not sent again


# The three values of the field ``repetition_detection``, under vLLM's names.
REPETITION = ("max_pattern_size", "min_pattern_size", "min_count")


@dataclass(frozen=True, slots=True)
class Job:
    """One request as the engine step gets it. ``sampling.max_tokens == 0`` means what the context leaves.

    ``explicit`` names the capabilities that the caller asked for. One that the runtime lacks is refused, whereas a
    default from generation_config.json that it lacks is dropped.
    """

    sampling: Sampling
    n: int = 1
    stream: bool = True
    text: TextOptions = field(default_factory=TextOptions)
    priority: int = 0
    lora_name: str = ""
    cache_salt: str = ""
    timeout_us: int = 0  # what the caller allows for the whole request; 0: no bound
    deadline: float = 0.0  # when that ends (``time.monotonic``); 0: never
    trace: str = ""  # W3C traceparent of the span that the engine's belong to; empty: none is wanted
    stop_key: str = ""  # unless empty, only a `stop` request with the same key cancels the request
    repetition: tuple[int, ...] = ()  # the values of ``REPETITION``; empty: answers may repeat themselves
    explicit: tuple[str, ...] = ()
    cancel: bool = False  # a `stop` request: cancels the one with the same id

    def to_json(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> Job:
        raw: dict[str, Any] = orjson.loads(data)
        sampling = raw.pop("sampling")
        sampling["guide"] = Guide(**sampling["guide"]) if sampling["guide"] else None
        for name in ("stop_token_ids", "allowed_token_ids"):
            sampling[name] = tuple(sampling[name])
        for name in ("bad_words", "logit_bias"):
            sampling[name] = tuple(map(tuple, sampling[name]))
        text = raw.pop("text")
        _tuples(text)
        raw["explicit"], raw["repetition"] = tuple(raw["explicit"]), tuple(raw["repetition"])
        return cls(sampling=Sampling(**sampling), text=TextOptions(**text), **raw)


HEADER_WORDS = 14  # INT32 words before the payload


def pack(
    slot: int, generation: int, seq: int, sequence_index: int, prompt_tokens: int, completion_tokens: int,
    cached_tokens: int, finish: int, ids: list[int], log_probs: Sequence[float] = (),
    *, options: bytes = b"", top_logprobs: bytes = b"", prompt: bytes = b"", ended: bool = False,
) -> IntArray:  # fmt: skip
    """One chunk as INT32 words; see ``Chunk`` for the fields. ``options`` is a ``TextOptions`` as JSON."""
    head = [slot, generation, seq, sequence_index, prompt_tokens, completion_tokens, cached_tokens, finish,
            len(ids), len(log_probs), len(options), len(top_logprobs), len(prompt), ended]  # fmt: skip
    words = np.array(head + ids, dtype=np.int32)
    if not (log_probs or options or top_logprobs or prompt):
        return words  # all but a sequence's first chunk
    tail = np.array(log_probs, dtype=np.float32).tobytes() + _padded(options) + _padded(top_logprobs) + _padded(prompt)
    return np.concatenate([words, np.frombuffer(tail, dtype=np.int32)])


def join(parts: list[IntArray]) -> IntArray:
    """Several packed chunks as one response."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _padded(data: bytes) -> bytes:
    return data + b" " * (-len(data) % 4)


PLAIN = TextOptions()


@dataclass(slots=True)
class Chunk:
    """New tokens of one sequence as the detokenizer gets them; it fills in what the last two fields hold.

    ``ids``, ``log_probs`` and ``top_logprobs`` (JSON or empty) have one entry per token. The options travel in a
    sequence's first chunk only. ``prompt`` is a ``PromptPart`` as bytes, or empty. ``ended``: the last of ``ids`` is
    the end or stop token, which has no text.
    """

    slot: int  # -1: the answer to a `stop` request, which belongs to no sequence
    generation: int
    seq: int  # counts the sequence's chunks from 1
    sequence_index: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    finish: int  # index into FINISH_CODES
    ids: list[int]
    log_probs: list[float] = field(default_factory=list)
    top_logprobs: bytes = b""
    prompt: bytes = b""
    ended: bool = False
    options: TextOptions = PLAIN
    text: str = ""
    cum_log_prob: float = 0.0


def unpack(words: IntArray) -> Iterator[Chunk]:
    """The chunks of one response, in order. Raises ``ValueError`` for words that are none."""
    at = 0
    while at < len(words):
        header = words[at : at + HEADER_WORDS].tolist()
        at += HEADER_WORDS
        _check(header, len(words) - at)
        *head, ids, probs, options, tops, prompt, ended = header
        chunk = Chunk(*head, words[at : at + ids].tolist())  # type: ignore[call-arg]  # eight words of the header
        chunk.ended = bool(ended)
        at += ids
        if probs:
            chunk.log_probs = words[at : at + probs].view(np.float32).tolist()
            at += probs
        if options:
            chunk.options = _text_options(words[at : at + (options + 3) // 4].tobytes()[:options])
            at += (options + 3) // 4
        if tops:
            chunk.top_logprobs = words[at : at + (tops + 3) // 4].tobytes()[:tops]
            at += (tops + 3) // 4
        if prompt:
            chunk.prompt = words[at : at + (prompt + 3) // 4].tobytes()[:prompt]
            at += (prompt + 3) // 4
        yield chunk


def _check(header: list[int], left: int) -> None:
    """``left``: words behind the header. Raises ``ValueError``."""
    if len(header) < HEADER_WORDS:
        raise ValueError(f"a chunk of {len(header)} words: its header has {HEADER_WORDS}")
    slot, generation, seq, *_, finish, ids, probs, options, tops, prompt, ended = header
    counts = (ids, probs, options, tops, prompt)
    if (
        min(counts) < 0
        or not 0 <= ended <= min(ids, 1)
        or ids + probs + sum((size + 3) // 4 for size in counts[2:]) > left
    ):
        raise ValueError(f"a chunk with counts {counts} in front of {left} words")
    if slot < -1 or min(generation, seq) < 0 or not 0 <= finish < len(FINISH_CODES):
        raise ValueError(f"a chunk with slot {slot}, generation {generation}, number {seq}, finish code {finish}")


def _text_options(data: bytes) -> TextOptions:
    raw = orjson.loads(data)
    _tuples(raw)
    return TextOptions(**raw)


def _tuples(text: dict[str, Any]) -> None:
    """JSON has only lists."""
    text["stops"], text["resume_ids"] = tuple(text["stops"]), tuple(text["resume_ids"])
