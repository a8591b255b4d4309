"""Writes keys and values to vLLM's cache in the place of its operator, which loses 48 bytes of host memory each time.

The operator takes the type of the cache as text, and torch's stable ABI never frees its copy of such an argument
(https://github.com/pytorch/pytorch/issues/191340, https://github.com/vllm-project/vllm/issues/50150). It is called for
every layer in each step with a part of a prompt: 70 KiB/s with 28 layers at 55 such steps a second. A quantized cache
stays with vLLM's operator.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl

UNQUANTIZED = ("auto", "bfloat16", "float16")


@triton.jit
def _write(
    key, value, key_cache, value_cache, slots, key_stride, value_stride, block_stride, token_stride, head_stride,
    SIZE: tl.constexpr, PADDED: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    if slot < 0:
        return
    column = tl.arange(0, PADDED)
    real = column < SIZE
    at = head * SIZE + column
    place = (slot // PAGE) * block_stride + (slot % PAGE) * token_stride + head * head_stride + column
    tl.store(key_cache + place, tl.load(key + token * key_stride + at, mask=real), mask=real)
    tl.store(value_cache + place, tl.load(value + token * value_stride + at, mask=real), mask=real)


def write(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """``key`` and ``value``: [tokens or more, heads, size], rows of one token contiguous. Caches: [blocks, tokens of a
    block, heads, size], with the same strides. ``slots``: [tokens]; for a slot of -1 nothing is written."""
    heads, size = key.shape[1:]
    _write[(len(slots), heads)](
        key, value, key_cache, value_cache, slots, key.stride(0), value.stride(0), *key_cache.stride()[:3],
        size, triton.next_power_of_2(size), key_cache.shape[1], num_warps=1,
    )  # fmt: skip


def install() -> None:
    """All of vLLM's attention backends look the operator up when they call it."""
    from vllm import _custom_ops  # noqa: F401  registers it

    theirs = torch.ops._C_cache_ops.reshape_and_cache_flash

    def reshape_and_cache_flash(
        key: torch.Tensor, value: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor,
        slot_mapping: torch.Tensor, kv_cache_dtype: str, k_scale: torch.Tensor, v_scale: torch.Tensor,
    ) -> None:  # fmt: skip
        if kv_cache_dtype in UNQUANTIZED:
            write(key, value, key_cache, value_cache, slot_mapping)
        else:
            theirs(key, value, key_cache, value_cache, slot_mapping, kv_cache_dtype, k_scale, v_scale)

    torch.ops._C_cache_ops.reshape_and_cache_flash = reshape_and_cache_flash
