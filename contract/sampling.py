"""The sampling settings that the tokenizer step hands to a runtime. Plain data; no text except for a grammar."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

GuideType = Literal["json", "json_schema", "regex", "ebnf_grammar", "structural_tag"]
ANY_OBJECT = '{"type":"object"}'


@dataclass(frozen=True, slots=True)
class Guide:
    """Constrained decoding. ``type="json"`` means any JSON object; its ``guide`` is the schema ``ANY_OBJECT``.

    ``optional``: an engine that lacks the type, or cannot compile the guide, answers without it.
    """

    type: GuideType
    guide: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """One sequence's sampling settings, complete: defaults are already filled in and ranges already checked.
    The scalar ones come from ``contract/fields.py``.

    ``temperature == 0`` is greedy. ``top_k == 0`` is the whole vocabulary. ``seed`` is always set: the tokenizer step
    draws one when the caller gave none, so that no engine's own default (0 in two of them) makes all answers alike.
    ``stop_token_ids`` holds the end ids too (151645, 151643 for Qwen2.5) and is empty with ``ignore_eos`` unless the
    caller named some. ``logit_bias`` is added to the logits of the named ids. If ``allowed_token_ids`` is not empty,
    only these are generated. ``logprobs`` is 0 for none, 1 for the chosen token, k+1 for the chosen token and the top
    k; ``prompt_logprobs`` is the same for each token of the prompt but the first.
    """

    max_tokens: int
    _: KW_ONLY
    # settings: begin
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    min_tokens: int = 0
    ignore_eos: bool = False
    guided_decoding_complete: bool = False
    # settings: end
    stop_token_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    logprobs: int = 0
    prompt_logprobs: int = 0
    guide: Guide | None = None
