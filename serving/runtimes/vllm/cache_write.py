"""Writes keys and values to vLLM's cache in the place of its operator, which loses 48 bytes of host memory each time.

The operator takes the type of the cache as text, and torch's stable ABI never frees its copy of such an argument
(https://github.com/pytorch/pytorch/issues/191340, https://github.com/vllm-project/vllm/issues/50150). It is called for
every layer in each step with a part of a prompt: 70 KiB/s with 28 layers at 55 such steps a second. A quantized cache
stays with vLLM's operator.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import logging

import torch
import triton
import triton.language as tl

UNQUANTIZED = ("auto", "bfloat16", "float16")

log = logging.getLogger(f"vllm.{__name__}")  # vLLM sets up no other logger in its engine core


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


def _obstacle(device: str) -> str:
    """What a trial of ``write`` showed; "" when each key and value is where it belongs, and nothing else changed."""
    keys, values = torch.zeros(2, 4, 16, 256, dtype=torch.bfloat16, device=device).transpose(1, 2).split(128, dim=-1)
    rows = torch.arange(1, 4 * 8 * 128 + 1, device=device).remainder(251).to(torch.bfloat16).view(4, 8, 128)
    key, value, slots = rows[:, :4], rows[:, 4:], [17, -1, 3, 31]
    wanted_keys, wanted_values = keys.clone(), values.clone()
    for row, slot in enumerate(slots):
        if slot >= 0:
            wanted_keys[slot // 16, slot % 16], wanted_values[slot // 16, slot % 16] = key[row], value[row]
    try:
        write(key, value, keys, values, torch.tensor(slots, device=device))
        same = torch.equal(keys, wanted_keys) and torch.equal(values, wanted_values)
    except Exception as error:  # noqa: BLE001 - whatever a compiler or driver says, the operator still works
        return f"{type(error).__name__}: {error}"
    return "" if same else "a trial wrote other bytes"


def install(device: str = "cuda") -> None:
    """All of vLLM's attention backends look the operator up when they call it. Where a trial fails, it stays."""
    from vllm import _custom_ops  # noqa: F401  registers it

    if obstacle := _obstacle(device):
        log.warning("vLLM's operator writes the KV cache, and loses 48 bytes of memory at each call: %s", obstacle)
        return
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
