"""``decode_attention.decode`` against attention written plainly, in FP32.

``python -m tests.oracle.decode_attention_reference``: on a GPU as it is, on a CPU with TRITON_INTERPRET=1.
Prints as JSON how many batches were compared and which differ.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import torch

from serving.runtimes.vllm import decode_attention

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPE = torch.float32 if INTERPRETED else torch.bfloat16  # the interpreter multiplies no BF16
TOLERANCE = 1e-5 if INTERPRETED else 0.05
SPARE = 3  # blocks that belong to nobody


def plainly(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cache: torch.Tensor, table: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The same, from the cache as it was before."""
    group = query.shape[1] // key.shape[1]
    size = query.shape[2]
    answers = []
    for row, length in enumerate(lengths.tolist()):
        pairs = cache[table[row].long()].transpose(1, 2).reshape(-1, key.shape[1], 2 * size)[: max(length - 1, 0)]
        keys = torch.cat([pairs[..., :size], key[row, None]]).float().repeat_interleave(group, 1)
        values = torch.cat([pairs[..., size:], value[row, None]]).float().repeat_interleave(group, 1)
        scores = torch.einsum("hd,nhd->hn", query[row].float(), keys) * size**-0.5
        answers.append(torch.einsum("hn,nhd->hd", scores.softmax(-1), values))
    return torch.stack(answers)


def batches() -> Iterator[tuple[str, bool]]:
    """Heads, key-value heads, size, tokens of a block, and lengths; 0 pads a batch."""
    for name, heads, kv_heads, size, page, lengths in (
        ("one new token", 8, 2, 64, 16, [1]),
        ("around a block", 8, 2, 64, 16, [15, 16, 17, 0, 18]),
        ("around a tile", 8, 2, 64, 16, [64, 65, 66, 129]),
        ("several splits, the last of one token", 28, 4, 128, 16, [130, 700, 1, 257]),
        ("blocks of 64", 14, 2, 64, 64, [300, 5, 64]),
        ("each query head its own", 4, 4, 64, 16, [70, 200]),
        ("splits of a middle batch", 8, 2, 64, 16, [1, 191, 192, 193, 400, *[20] * 30, 1000]),
        ("a long one in a large batch", 8, 2, 64, 16, [*[3] * 62, 2100, 0, 1025]),
        ("the largest batches", 4, 2, 64, 16, [*[2] * 130, 2049, 5000]),
    ):  # fmt: skip
        torch.manual_seed(len(name))
        of = torch.tensor(lengths, dtype=torch.int32)
        blocks = [-(-length // page) for length in lengths]
        table = torch.zeros(len(lengths), max(blocks) + 2, dtype=torch.int32)
        free = (torch.randperm(sum(blocks) + SPARE) + 1).tolist()
        slots = torch.full((len(lengths),), -1, dtype=torch.int64)
        for row, count in enumerate(blocks):
            table[row, :count] = torch.tensor([free.pop() for _ in range(count)], dtype=torch.int32)
            if lengths[row]:
                slots[row] = int(table[row, (lengths[row] - 1) // page]) * page + (lengths[row] - 1) % page
        cache = torch.randn(sum(blocks) + SPARE + 1, kv_heads, page, 2 * size).to(DEVICE, DTYPE)
        packed = torch.randn(len(lengths), heads + 2 * kv_heads, size).to(DEVICE, DTYPE)
        query, key, value = packed.split([heads, kv_heads, kv_heads], dim=1)
        expected = plainly(query, key, value, cache, table.to(DEVICE), of)
        wanted = cache.clone()
        for row, slot in enumerate(slots.tolist()):
            if slot >= 0:
                wanted[slot // page, :, slot % page] = torch.cat([key[row], value[row]], dim=-1)
        workspace = decode_attention.Workspace(len(lengths), heads, kv_heads, size, torch.device(DEVICE))
        equal = True
        for _ in range(2):  # the second time finds what the first has left
            out = torch.zeros(len(lengths), heads, size, device=DEVICE, dtype=DTYPE)
            decode_attention.decode(
                out, query, key, value, cache, slots.to(DEVICE), table.to(DEVICE), of.to(DEVICE), size**-0.5, workspace
            )
            real = of.to(DEVICE) > 0
            equal &= bool(((out.float() - expected)[real].abs() < TOLERANCE).all())
            equal &= torch.equal(cache, wanted) and not bool(out[~real].any())
        yield name, equal


def main() -> None:
    compared = list(batches())
    print(json.dumps({"batches": len(compared), "differing": [name for name, equal in compared if not equal]}))


if __name__ == "__main__":
    main()
