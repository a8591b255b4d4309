"""Attention of sequences that add one token each: the token's key and value go into the cache in the same kernel.

One program reads one share of one sequence's cache for one key-value head and all query heads of it. Shares are cut so
that few sequences still fill the GPU and one long sequence among short ones is not alone at the end. Where a sequence
has several, the program that finishes last adds them up: FlashAttention has a kernel of its own for that, which runs
in every layer whether or not there is anything to add.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE = 64  # cached tokens of one pass
WARPS, STAGES = 4, 3
ROWS = 16  # of a matrix product: query heads of one key-value head; fewer are padded
LOG2_E = 1.4426950408889634


@triton.jit
def _decode(
    out, query, new_key, new_value, cache, slots, table, lengths, sums, arrived, scale, out_stride, query_stride,
    key_stride, value_stride, table_stride, block_stride, head_stride, token_stride, GROUP: tl.constexpr,
    ROWS: tl.constexpr, SIZE: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr, SHARES: tl.constexpr,
    SHARE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    mine = tl.program_id(2)
    length = tl.load(lengths + sequence)  # the new token is the last of them; 0 pads the batch of a CUDA graph
    cached = length - 1
    shares = tl.minimum(tl.cdiv(length, SHARE), SHARES)
    if mine >= shares:
        return
    share = tl.cdiv(tl.cdiv(cached, shares), TILE) * TILE
    begin = mine * share
    end = tl.minimum(cached, begin + share)

    row = tl.arange(0, ROWS)
    column = tl.arange(0, SIZE)
    member = tl.arange(0, TILE)
    real = (row < GROUP)[:, None]
    heads = (head * GROUP + row)[:, None] * SIZE + column[None, :]
    q = tl.load(query + sequence * query_stride + heads, mask=real, other=0.0)
    key = tl.load(new_key + sequence * key_stride + head * SIZE + column)
    value = tl.load(new_value + sequence * value_stride + head * SIZE + column)
    cache += head.to(tl.int64) * head_stride
    table += sequence * table_stride
    first = mine == 0
    slot = tl.load(slots + sequence)
    if first & (slot >= 0):
        place = cache + (slot // PAGE) * block_stride + (slot % PAGE) * token_stride + column
        tl.store(place, key)
        tl.store(place + SIZE, value)

    # The first share begins with the new token, the others with nothing.
    score = tl.sum(q.to(tl.float32) * key[None, :].to(tl.float32), axis=1) * scale
    largest = tl.where(first, score, float("-inf"))
    weight = tl.where(first, tl.full([ROWS], 1.0, tl.float32), 0.0)
    total = tl.where(first, tl.zeros([ROWS, SIZE], tl.float32) + value[None, :].to(tl.float32), 0.0)
    for start in tl.range(begin, end, TILE, num_stages=STAGES):
        token = start + member
        there = token < end
        page = tl.load(table + token // PAGE, mask=there, other=0).to(tl.int64)
        at = cache + page * block_stride + (token % PAGE) * token_stride
        keys = tl.load(at[:, None] + column[None, :], mask=there[:, None], other=0.0)
        values = tl.load(at[:, None] + SIZE + column[None, :], mask=there[:, None], other=0.0)
        scores = tl.where(there[None, :], tl.dot(q, tl.trans(keys)) * scale, float("-inf"))
        now = tl.maximum(largest, tl.max(scores, axis=1))
        kept = tl.exp2(largest - now)
        shared = tl.exp2(scores - now[:, None])
        weight = weight * kept + tl.sum(shared, axis=1)
        total = total * kept[:, None] + tl.dot(shared.to(values.dtype), values)
        largest = now

    out += sequence * out_stride + heads
    if shares == 1:
        tl.store(out, (total / weight[:, None]).to(out.dtype.element_ty), mask=real)
    else:
        groups = tl.num_programs(1)
        group = sequence * groups + head
        places = tl.num_programs(0) * groups * SHARES * GROUP  # of ``sums``; each one's largest score and weight follow
        at_row = (group * SHARES + mine) * GROUP + row
        tl.store(sums + at_row[:, None] * SIZE + column[None, :], total, mask=real)
        extra = sums + places.to(tl.int64) * SIZE
        tl.store(extra + at_row * 2, largest, mask=row < GROUP)
        tl.store(extra + at_row * 2 + 1, weight, mask=row < GROUP)
        tl.debug_barrier()  # all of this program's sums are written before it is counted
        if tl.atomic_add(arrived + group, 1, sem="acq_rel") == shares - 1:
            part = tl.arange(0, SHARES)
            at_part = (group * SHARES + part)[:, None] * GROUP + row[None, :]
            known = (part < shares)[:, None] & (row < GROUP)[None, :]
            peaks = tl.load(extra + at_part * 2, mask=known, other=float("-inf"), cache_modifier=".cg")
            weights = tl.load(extra + at_part * 2 + 1, mask=known, other=0.0, cache_modifier=".cg")
            largest = tl.where(row < GROUP, tl.max(peaks, axis=0), 0.0)  # the first share is never empty
            weight = tl.sum(weights * tl.exp2(peaks - largest[None, :]), axis=0)
            total = tl.zeros([ROWS, SIZE], tl.float32)
            for other in tl.range(0, shares, loop_unroll_factor=4):
                at_row = (group * SHARES + other) * GROUP + row
                peak = tl.load(extra + at_row * 2, mask=row < GROUP, other=0.0, cache_modifier=".cg")
                added = tl.load(
                    sums + at_row[:, None] * SIZE + column[None, :], mask=real, other=0.0, cache_modifier=".cg"
                )
                total += added * tl.exp2(peak - largest)[:, None]
            tl.store(out, (total / weight[:, None]).to(out.dtype.element_ty), mask=real)
            tl.store(arrived + group, 0)  # as the next layer expects it


def shares_of(groups: int) -> tuple[int, int]:
    """Most shares of a sequence, and the fewest tokens that make another, for ``groups`` = sequences * key-value heads.

    Measured on an H100 (docs/benchmarks.md)."""
    for most, shares, tokens in ((16, 16, TILE), (64, 8, 2 * TILE), (128, 8, 3 * TILE), (256, 4, 1024)):
        if groups <= most:
            return shares, tokens
    return 4, 2048


class Workspace:
    """Sums of unfinished sequences, for one GPU and up to ``sequences`` of them; used by one kernel at a time."""

    def __init__(self, sequences: int, heads: int, kv_heads: int, size: int, device: torch.device) -> None:
        rows = max(groups * shares_of(groups)[0] for groups in range(kv_heads, sequences * kv_heads + 1, kv_heads))
        self.sums = torch.empty(rows * (heads // kv_heads) * (size + 2), dtype=torch.float32, device=device)
        self.arrived = torch.zeros(sequences * kv_heads, dtype=torch.int32, device=device)


def decode(
    out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cache: torch.Tensor,
    slots: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    workspace: Workspace,
) -> None:
    """Write ``key`` and ``value`` [sequences, kv_heads, size] to ``slots`` of ``cache``, then attend to all of it.

    ``query`` and ``out``: [sequences, heads, size], rows of one sequence contiguous. ``cache``: [blocks, kv_heads,
    tokens of a block, 2 * size], a key and its value side by side. ``table``: [sequences, blocks], ``lengths``: tokens
    of each sequence with the new one. A sequence of length 0 is left alone, as is a slot of -1."""
    sequences, kv_heads = len(lengths), key.shape[1]
    group, size = query.shape[1] // kv_heads, query.shape[2]
    shares, share = shares_of(sequences * kv_heads)
    _decode[(sequences, kv_heads, shares)](
        out, query, key, value, cache, slots, table, lengths, workspace.sums, workspace.arrived, scale * LOG2_E,
        out.stride(0), query.stride(0), key.stride(0), value.stride(0), table.stride(0), cache.stride(0),
        cache.stride(1), cache.stride(2), group, ROWS, size, cache.shape[2],
        TILE, shares, share, STAGES, num_warps=WARPS,
    )  # fmt: skip
