"""Fields of the OpenAI and vLLM APIs that have no effect here: accepted at values that change nothing, or refused."""

from __future__ import annotations

from typing import Any, NamedTuple


class Fixed(NamedTuple):
    """A field accepted only at values that change nothing: null and those in ``allowed``.

    Without ``allowed``, false and empty values pass too. ``asks``: an empty object asks for the feature with its
    defaults, so false alone passes. ``why`` and ``code`` are those of the refusal."""

    allowed: tuple[Any, ...]
    openai: bool
    vllm: bool
    why: str
    asks: bool = False
    code: str = "unsupported"

    def accepts(self, value: Any) -> bool:
        neutral = self.allowed or ((False,) if self.asks else (False, {}, [], ""))
        return value is None or any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in neutral)


_NO_SUCH_FEATURE = "this server has no such feature"
_NO_REASONING = "Qwen2.5 has no separate reasoning"
# fmt: off
FIXED: dict[str, Fixed] = {
    "best_of": Fixed((1,), True, False, "request n and choose yourself; the value of n is accepted"),
    "service_tier": Fixed(("auto", "default"), True, False, "there is one tier"),
    "store": Fixed((False,), True, False, "nothing is stored"),
    "modalities": Fixed((["text"],), True, False, "the model reads and writes text"),
    "suffix": Fixed(("",), True, False, "Qwen2.5-Instruct is not a fill-in-the-middle model"),
    "use_beam_search": Fixed((False,), False, True, "sampling only"),
    "length_penalty": Fixed((1, 1.0), False, True, "belongs to beam search"),
    "skip_special_tokens": Fixed((True,), False, True, "special tokens never appear in the text"),
    "spaces_between_special_tokens": Fixed((True, False), False, True, "special tokens never appear in the text"),
    "add_special_tokens": Fixed((False, True), False, True, "Qwen2.5 has none to add"),
    "detokenize": Fixed((True,), False, True, "this server answers with text"),
    "reasoning_effort": Fixed(("none",), True, True, _NO_REASONING),
    "include_reasoning": Fixed((True, False), False, True, "there is none to include"),
    "echo": Fixed((False,), False, True, "of chats: put the beginning of the answer into a last assistant message"),
    "mm_payload": Fixed(("tensors",), False, True, "the model reads text"),
    "routed_experts_prompt_start": Fixed((0,), False, True, "the model has no experts"),
    "return_token_offsets": Fixed((False, True), False, True, "vLLM's generating endpoints ignore it too"),
    "thinking_token_budget": Fixed((-1,), False, True, _NO_REASONING),
    "stream_interval": Fixed((1,), False, True, "a chunk holds what has come since the one before"),
    # of other vendors' APIs, which clients send to every server
    "enable_thinking": Fixed((False,), False, False, _NO_REASONING),
    "thinking": Fixed(({"type": "disabled"},), False, False, _NO_REASONING),
    "reasoning": Fixed(({"enabled": False}, {"effort": "none"}), False, False, _NO_REASONING),
    "verbosity": Fixed(("medium",), True, False, "say it in a message"),
    "guided_decoding_backend": Fixed(
        ("auto", "guidance", "llguidance", "xgrammar", "outlines", "lm-format-enforcer"), False, True,
        "the engine's own enforces the same guide",
    ),
}
REFUSED: dict[str, Fixed] = {
    name: Fixed((), openai, vllm, why, asks=name in ("audio", "prediction", "web_search_options", "moderation"))
    for name, openai, vllm, why in (
        ("functions", True, False, "use tools"),
        ("function_call", True, False, "use tool_choice"),
        ("audio", True, True, "the model reads and writes text"),
        ("prediction", True, False, _NO_SUCH_FEATURE),
        ("web_search_options", True, False, _NO_SUCH_FEATURE),
        ("chat_template", False, True, "use /v1/completions with your own template"),
        ("documents", False, True, "put them in a message"),
        ("logits_processors", False, True, _NO_SUCH_FEATURE),
        ("guided_whitespace_pattern", False, True, "write it in the grammar"),
        ("mm_processor_kwargs", False, True, "the model reads text"),
        ("kv_transfer_params", False, True, _NO_SUCH_FEATURE),
        ("moderation", True, False, _NO_SUCH_FEATURE),
        ("media_io_kwargs", False, True, "the model reads text"),
        ("return_prompt_text", False, True, "return_token_ids gives its ids, /detokenize their text"),
        ("return_weight_versions", False, True, _NO_SUCH_FEATURE),
        ("vllm_xargs", False, True, _NO_SUCH_FEATURE),
        ("watermarking", False, True, _NO_SUCH_FEATURE),
        ("logprob_token_ids", False, True, "use top_logprobs"),
        ("return_mm_kwargs", False, True, "the model reads text"),
        ("ec_transfer_params", False, True, _NO_SUCH_FEATURE),
        ("prompt_embeds", False, True, "send text or token ids"),
        # SGLang's and llama.cpp's names
        ("regex", False, False, "use guided_regex"),
        ("ebnf", False, False, "use guided_grammar"),
        ("grammar", False, False, "use guided_grammar"),
        ("json_schema", False, False, "use guided_json"),
    )
}
# fmt: on
# Fields of objects within a request, by their last two names: why they are taken at few values only.
WITHIN = {
    "reasoning.effort": _NO_REASONING,
    "thinking.type": _NO_REASONING,
    "output_config.effort": _NO_REASONING,
    "text.verbosity": "say it in a message",
    "citations.enabled": "answers cite nothing",
    "edits.type": _NO_SUCH_FEATURE,
}
