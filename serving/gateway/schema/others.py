"""Fields of other servers' APIs that are known here by name: those that change nothing, and those that are refused."""

from __future__ import annotations

from typing import Any, NamedTuple


class Fixed(NamedTuple):
    """A field that may be sent, but only with a value that changes nothing."""

    allowed: tuple[Any, ...]
    openai: bool
    vllm: bool
    why: str


_NO_IDEA = "this server has nothing like it"
# fmt: off
FIXED: dict[str, Fixed] = {
    "best_of": Fixed((1,), True, False, "draw n and choose yourself"),
    "service_tier": Fixed(("auto", "default"), True, False, "there is one tier"),
    "store": Fixed((False,), True, False, "nothing is stored"),
    "modalities": Fixed((["text"],), True, False, "the model reads and writes text"),
    "suffix": Fixed(("",), True, False, "Qwen2.5-Instruct is no fill-in model"),
    "use_beam_search": Fixed((False,), False, True, "sampling only"),
    "length_penalty": Fixed((1, 1.0), False, True, "belongs to beam search"),
    "skip_special_tokens": Fixed((True,), False, True, "special tokens never appear in the text"),
    "spaces_between_special_tokens": Fixed((True, False), False, True, "special tokens never appear in the text"),
    "add_special_tokens": Fixed((False, True), False, True, "Qwen2.5 has none to add"),
    "detokenize": Fixed((True,), False, True, "text is what this server answers with"),
}
REFUSED: dict[str, Fixed] = {
    name: Fixed((), openai, vllm, why)
    for name, openai, vllm, why in (
        ("functions", True, False, "use tools"),
        ("function_call", True, False, "use tool_choice"),
        ("audio", True, True, "the model reads and writes text"),
        ("prediction", True, False, _NO_IDEA),
        ("reasoning_effort", True, True, "Qwen2.5 does not reason apart"),
        ("verbosity", True, False, _NO_IDEA),
        ("web_search_options", True, False, _NO_IDEA),
        ("prompt_logprobs", False, True, "the engines here give log probabilities of the answer only"),
        ("truncate_prompt_tokens", False, True, "shorten the prompt yourself: a cut prompt answers another question"),
        ("chat_template", False, True, "use /v1/completions with your own template"),
        ("chat_template_kwargs", False, True, "use /v1/completions with your own template"),
        ("documents", False, True, "put them into a message"),
        ("logits_processors", False, True, _NO_IDEA),
        ("allowed_token_ids", False, True, _NO_IDEA),
        ("guided_decoding_backend", False, True, "the engine has one"),
        ("guided_whitespace_pattern", False, True, "write it into the grammar"),
        ("mm_processor_kwargs", False, True, "the model reads text"),
        ("kv_transfer_params", False, True, _NO_IDEA),
        ("return_tokens_as_token_ids", False, True, "use return_token_ids"),
        ("moderation", True, False, _NO_IDEA),
        ("thinking_token_budget", False, True, "Qwen2.5 does not reason apart"),
        ("include_reasoning", False, True, "Qwen2.5 does not reason apart"),
        ("truncation_side", False, True, "shorten the prompt yourself: a cut prompt answers another question"),
        ("media_io_kwargs", False, True, "the model reads text"),
        ("request_id", False, True, "send the header X-Request-ID"),
        ("return_prompt_text", False, True, "/tokenize and /detokenize give it"),
        ("cache_salt", False, True, _NO_IDEA),
        ("vllm_xargs", False, True, _NO_IDEA),
        ("repetition_detection", False, True, _NO_IDEA),
    )
}
# fmt: on
