"""Whether a guide goes with its type: asked by the client before it sends a request, and by the tokenizer step for
whatever arrives."""

from __future__ import annotations

from typing import get_args

from contract.errors import InvalidRequest, shown
from contract.sampling import GuideType

LONGEST_GRAMMAR = 65536  # of the kinds whose check takes longest: 60 ms in vLLM


def check(kind: str, guide: str) -> None:
    """Raises ``InvalidRequest``. Whoever sends a guide that its type has no use for believes that it is kept to."""
    if kind and kind not in get_args(GuideType):
        problem = f"{shown(kind)} is unknown; use one of {', '.join(get_args(GuideType))}"
        raise InvalidRequest("guided_decoding_guide_type", problem)
    if not kind and guide:
        raise InvalidRequest("guided_decoding_guide_type", "missing beside guided_decoding_guide; send both")
    if kind == "json" and guide:
        problem = f"{shown(guide)} has no effect with guided_decoding_guide_type = json, which is any JSON object"
        remedy = "send guided_decoding_guide_type = json_schema, or leave the guide out"
        raise InvalidRequest("guided_decoding_guide", f"{problem}; {remedy}")
    if kind not in ("", "json") and not guide:
        raise InvalidRequest("guided_decoding_guide", f"missing or empty; {kind} needs one, so send it")
    if kind in ("regex", "ebnf_grammar") and len(guide) > LONGEST_GRAMMAR:
        problem = f"{len(guide)} characters are too many; give at most {LONGEST_GRAMMAR}"
        raise InvalidRequest("guided_decoding_guide", problem)
