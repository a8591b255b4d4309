"""``cache_write.write``, through vLLM's operator's name, against the same written plainly.

``python -m tests.oracle.cache_write_reference``: on a GPU as it is, on a CPU with TRITON_INTERPRET=1.
Prints as JSON how many caches were compared, which differ, the types that were left to the operator, and whether it
stayed when ``write`` failed and when it wrote to other places.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from types import ModuleType

import torch

from serving.runtimes.vllm import cache_write

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
left: list[str] = []
write = cache_write.write


def stand_in() -> None:
    """An operator of that name that only notes its calls; vLLM itself is not needed."""
    library = torch.library.Library("_C_cache_ops", "DEF")
    library.define(
        "reshape_and_cache_flash(Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache, "
        "Tensor slot_mapping, str kv_cache_dtype, Tensor k_scale, Tensor v_scale) -> ()"
    )
    library.impl("reshape_and_cache_flash", lambda *given: left.append(given[5]), "CPU" if DEVICE == "cpu" else "CUDA")
    globals()["library"] = library  # it takes its operators with it
    vllm = ModuleType("vllm")
    vllm._custom_ops = ModuleType("vllm._custom_ops")
    sys.modules["vllm"] = vllm


def caches() -> Iterator[tuple[str, bool]]:
    for name, heads, size, page, dtype, tokens, side_by_side in (
        ("keys beside values, as FlashAttention's", 4, 128, 16, torch.bfloat16, 37, True),
        ("keys before values", 2, 64, 16, torch.float16, 20, False),
        ("a size that is no power of two", 3, 80, 32, torch.bfloat16, 5, True),
        ("one token", 1, 64, 16, torch.bfloat16, 1, True),
    ):
        torch.manual_seed(len(name))
        blocks = -(-tokens // page) + 3
        if side_by_side:
            pairs = torch.randn(blocks, heads, page, 2 * size).to(DEVICE, dtype).transpose(1, 2)
            key_cache, value_cache = pairs.split(size, dim=-1)
        else:
            key_cache, value_cache = torch.randn(2, blocks, page, heads, size).to(DEVICE, dtype)
        slots = torch.randperm(blocks * page)[:tokens].to(DEVICE)
        slots[tokens // 2 + 1 :: 4] = -1
        packed = torch.randn(tokens + 7, 8 * heads, size).to(DEVICE, dtype)  # padded, as a CUDA graph's
        key, value = packed[:, heads : 2 * heads], packed[:, 2 * heads : 3 * heads]
        wanted = key_cache.clone(), value_cache.clone()
        for row, slot in enumerate(slots.tolist()):
            if slot >= 0:
                wanted[0][slot // page, slot % page] = key[row]
                wanted[1][slot // page, slot % page] = value[row]
        scale = torch.ones(1, device=DEVICE)
        for kind in ("fp8_e4m3", "auto"):
            torch.ops._C_cache_ops.reshape_and_cache_flash(
                key, value, key_cache, value_cache, slots, kind, scale, scale
            )
        yield name, torch.equal(key_cache, wanted[0]) and torch.equal(value_cache, wanted[1])


def no_compiler(*tensors: torch.Tensor) -> None:
    raise RuntimeError("no ptxas")


def write_to_the_first_block(*tensors: torch.Tensor) -> None:
    *given, slots = tensors
    write(*given, slots.clamp(max=3))


def main() -> None:
    stand_in()
    operator = torch.ops._C_cache_ops.reshape_and_cache_flash
    kept = []
    for cannot in (no_compiler, write_to_the_first_block):
        cache_write.write = cannot
        cache_write.install(DEVICE)
        kept.append(torch.ops._C_cache_ops.reshape_and_cache_flash is operator)
    cache_write.write = write
    cache_write.install(DEVICE)
    compared = list(caches())
    differing = [name for name, equal in compared if not equal]
    seen = {"caches": len(compared), "differing": differing, "left": sorted(set(left)), "kept": kept}
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
