"""Refuses names that no input has. Over gRPC Triton does that itself; HTTP's /generate turns unknown fields of a body
into request parameters, which would be ignored."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from contract.errors import InvalidRequest, Unsupported, shown
from contract.fields import FIELD_OF_TENSOR, FIELDS

TIMEOUT = "timeout"  # KServe's, of microseconds; over gRPC Triton takes it out itself
LONGEST_US = 2**63 - 1

# Inputs of NVIDIA's ensemble and tensorrt_llm_bls (all_models/inflight_batcher_llm, in tensorrtllm_backend v0.17.0 and
# TensorRT-LLM 1.2).
NVIDIAS = {
    "return_context_logits": "use return_prompt_log_probs",
    "return_generation_logits": "use return_log_probs",
    "return_kv_cache_reuse_stats": "cached_tokens is in every response",
    "return_perf_metrics": "GET /metrics of Triton's metrics port has the engine's",
    "return_num_input_tokens": "prompt_tokens is in every response",
    "return_num_output_tokens": "completion_tokens is in every response",
    "decoder_text_input": "the model has no encoder; use text_input",
    "lora_task_id": "use lora_name",
    "lora_weights": "use lora_name",
    "lora_config": "use lora_name",
    "prompt_embedding_table": "send text",
    "prompt_table_extra_id": "send text",
    "prompt_vocab_size": "send text",
    "image_input": "the model reads text",
    "image_bytes_input": "the model reads text",
    "image_url_input": "the model reads text",
    "video_bytes_input": "the model reads text",
    "num_draft_tokens": "the engine drafts by itself",
    "use_draft_logits": "the engine drafts by itself",
}


# What the clients' options, and the gateway's fields for them, are called where the input has another name.
ELSEWHERE = {
    way.name: field.name for field in FIELDS if field.option for way in (field.api, field.option) if way and way.name
}

# A label that newer Tritons take out of the body themselves, W3C trace context, which must not fail a request, and what
# the load tests of vLLM and SGLang for TensorRT-LLM send to NVIDIA's ensemble, which does not read it either.
UNREAD = ("id", "traceparent", "tracestate", "accumulate_tokens")


def refuse_parameters(parameters: Mapping[str, Any]) -> None:
    """Raises ``InvalidRequest`` for the first one; NVIDIA's are accepted at values that change nothing."""
    for name, value in parameters.items():
        if name in UNREAD or name == TIMEOUT:
            continue
        if name in NVIDIAS:
            if value:
                raise Unsupported(name, f"{shown(value)} is not served; {NVIDIAS[name]}")
            continue
        near = [ELSEWHERE[name]] if name in ELSEWHERE else difflib.get_close_matches(name[:60], FIELD_OF_TENSOR, 1)
        hint = f"did you mean {near[0]}?" if near else "docs/fields.md lists them"
        raise InvalidRequest(name[:100], f"no such input; {hint}")


def timeout_us(by_triton: int, parameters: Mapping[str, Any]) -> int:
    """Microseconds that the caller allows the request; 0: no bound. Raises ``InvalidRequest``."""
    given = parameters.get(TIMEOUT) or by_triton
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= LONGEST_US:
        raise InvalidRequest(TIMEOUT, f"{shown(given)} is not a time; give microseconds as an integer, 0 for no bound")
    return given
