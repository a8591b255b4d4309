"""Makes vLLM's FlashAttention layers call ``decode_attention.decode`` in steps where every sequence adds one token.

Such a step then needs no kernel that writes the cache, none that combines splits, and no schedule for FlashAttention.
Steps with a longer part of a prompt, drafts, FP8 caches and other kinds of attention stay with vLLM.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention import Attention
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadataBuilder,
)

from serving.runtimes.vllm.decode_attention import ROWS, Workspace, decode

MEASURED_ON = 9  # major compute capability: Hopper, the only one where the two were compared

log = logging.getLogger(f"vllm.{__name__}")  # vLLM sets up no other logger in its engine core


def install(model: torch.nn.Module, config: Any) -> None:
    """Replace the attention of all layers of ``model``, or of none: they share one builder of metadata."""
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    if obstacle := _obstacle(layers, config):
        log.info("decode attention stays with vLLM: %s", obstacle)
        return
    first = layers[0].impl
    workspace = Workspace(
        config.scheduler_config.max_num_seqs, first.num_heads, first.num_kv_heads, first.head_size,
        next(model.parameters()).device,
    )  # fmt: skip
    _replace(workspace)
    log.info("decode attention is one kernel, which also writes the KV cache")


def _obstacle(layers: list[Any], config: Any) -> str:
    """Why vLLM's attention has to stay; "" when it can be replaced."""
    modes = config.compilation_config.cudagraph_mode
    if FlashAttentionBackend.get_kv_cache_shape(7, 16, 3, 64) != (7, 3, 16, 128):
        return "this release lays the cache out differently"
    if torch.cuda.get_device_capability()[0] != MEASURED_ON:
        return "not measured on this GPU"
    if not config.use_v2_model_runner or config.speculative_config or config.parallel_config.use_ubatching:
        return "steps differ (V1 model runner, speculative decoding or micro-batches)"
    if not layers or any(type(layer.impl) is not FlashAttentionImpl for layer in layers):
        return "not all layers are FlashAttention's"
    if modes.has_full_cudagraphs() and not modes.separate_routine():
        return "one CUDA graph serves prompts and single tokens"
    if len({(impl.num_heads, impl.num_kv_heads, impl.head_size) for impl in (layer.impl for layer in layers)}) > 1:
        return "its layers differ in shape"
    return next(filter(None, (_unsupported(layer.impl) for layer in layers)), "")


def _unsupported(impl: Any) -> str:
    """A feature that ``impl`` asks for and ``decode`` lacks; "" when there is none."""
    asked = {
        "attention other than a decoder's": impl.attn_type != AttentionType.DECODER,
        "a quantized cache": impl.kv_cache_dtype not in ("auto", "bfloat16", "float16"),
        "a sliding window": tuple(impl.sliding_window) != (-1, -1),
        "ALiBi": impl.alibi_slopes is not None,
        "a soft cap": bool(impl.logits_soft_cap),
        "sinks": impl.sinks is not None,
        "another layer's cache": impl.kv_sharing_target_layer_name is not None,
        "context parallelism": impl.dcp_world_size > 1,
        "batch invariance": impl.batch_invariant_enabled,
        f"heads of {impl.head_size}": impl.head_size not in (64, 128),
        f"groups of {impl.num_queries_per_kv}": impl.num_queries_per_kv > ROWS,
    }
    return next((name for name, it_does in asked.items() if it_does), "")


def _replace(workspace: Workspace) -> None:
    build = FlashAttentionMetadataBuilder.build
    update = FlashAttentionImpl.do_kv_cache_update
    forward = FlashAttentionImpl.forward

    def build_(self: Any, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
        single = common_attn_metadata.max_query_len == 1 and not common_prefix_len
        fast = fast_build or single  # without a schedule
        metadata = build(self, common_prefix_len, common_attn_metadata, fast)
        metadata.single_tokens = single
        return metadata

    def update_(self: Any, layer: Any, key: Any, value: Any, kv_cache: Any, slot_mapping: Any) -> None:
        metadata = get_forward_context().attn_metadata
        if not (isinstance(metadata, dict) and _single(metadata.get(layer.layer_name))):
            update(self, layer, key, value, kv_cache, slot_mapping)

    def forward_(
        self: Any, layer: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kv_cache: torch.Tensor,
        attn_metadata: Any, output: torch.Tensor, output_scale: Any = None, output_block_scale: Any = None,
    ) -> torch.Tensor:  # fmt: skip
        if not _single(attn_metadata):
            whole: torch.Tensor = forward(
                self, layer, query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale
            )
            return whole
        decode(
            output, query, key, value, kv_cache, attn_metadata.slot_mapping, attn_metadata.block_table,
            attn_metadata.seq_lens, self.scale, workspace,
        )  # fmt: skip
        return output

    FlashAttentionMetadataBuilder.build = build_
    FlashAttentionImpl.do_kv_cache_update = update_
    FlashAttentionImpl.forward = forward_


def _single(metadata: Any) -> bool:
    return getattr(metadata, "single_tokens", False)
