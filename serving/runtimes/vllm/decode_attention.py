"""Split-KV decode attention (Flash-Decoding) for sequences that add one token each, which also writes the KV cache.

One program reads one split of one sequence's cache, for one key-value head and all query heads of its group. Splits are
cut so that a few sequences still fill the GPU, and so that one long sequence among short ones does not run alone at the
end. Where a sequence has several splits, the program that finishes last combines them. (FlashAttention has a separate
kernel for that, which runs in every layer whether or not there is anything to combine.)
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
def _combine(
    partials, stats, group, splits, rows, columns, real, ROWS: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    """The attention of ``group`` [ROWS, SIZE], from the accumulators and the (max, sum) pairs of its splits."""
    each = tl.arange(0, SPLITS)
    at_each = (group * SPLITS + each)[:, None] * GROUP + rows[None, :]
    known = (each < splits)[:, None] & (rows < GROUP)[None, :]
    maxima = tl.load(stats + at_each * 2, mask=known, other=float("-inf"), cache_modifier=".cg")
    row_sums = tl.load(stats + at_each * 2 + 1, mask=known, other=0.0, cache_modifier=".cg")
    row_max = tl.where(rows < GROUP, tl.max(maxima, axis=0), 0.0)  # the first split is never empty
    row_sum = tl.sum(row_sums * tl.exp2(maxima - row_max[None, :]), axis=0)
    acc = tl.zeros([ROWS, SIZE], tl.float32)
    for split in tl.range(0, splits, loop_unroll_factor=4):
        at = (group * SPLITS + split) * GROUP + rows
        split_max = tl.load(stats + at * 2, mask=rows < GROUP, other=0.0, cache_modifier=".cg")
        partial = tl.load(partials + at[:, None] * SIZE + columns[None, :], mask=real, other=0.0, cache_modifier=".cg")
        acc += partial * tl.exp2(split_max - row_max)[:, None]
    return acc / row_sum[:, None]


@triton.jit
def _decode(
    out, query, new_key, new_value, cache, slots, table, lengths, partials, arrived, scale, out_stride, query_stride,
    key_stride, value_stride, table_stride, block_stride, head_stride, token_stride, GROUP: tl.constexpr,
    ROWS: tl.constexpr, SIZE: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr,
    SPLIT_TOKENS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(lengths + sequence)  # the new token is the last of them; 0 pads the batch of a CUDA graph
    cached = length - 1
    splits = tl.minimum(tl.cdiv(length, SPLIT_TOKENS), SPLITS)
    if split >= splits:
        return
    tokens = tl.cdiv(tl.cdiv(cached, splits), TILE) * TILE
    begin = split * tokens
    end = tl.minimum(cached, begin + tokens)

    rows = tl.arange(0, ROWS)
    columns = tl.arange(0, SIZE)
    member = tl.arange(0, TILE)
    real = (rows < GROUP)[:, None]
    heads = (head * GROUP + rows)[:, None] * SIZE + columns[None, :]
    q = tl.load(query + sequence * query_stride + heads, mask=real, other=0.0)
    key = tl.load(new_key + sequence * key_stride + head * SIZE + columns)
    value = tl.load(new_value + sequence * value_stride + head * SIZE + columns)
    cache += head.to(tl.int64) * head_stride
    table += sequence * table_stride
    first = split == 0
    slot = tl.load(slots + sequence)
    if first & (slot >= 0):
        place = cache + (slot // PAGE) * block_stride + (slot % PAGE) * token_stride + columns
        tl.store(place, key)
        tl.store(place + SIZE, value)

    # Online softmax. The first split begins with the new token, the others with nothing.
    score = tl.sum(q.to(tl.float32) * key[None, :].to(tl.float32), axis=1) * scale
    row_max = tl.where(first, score, float("-inf"))
    row_sum = tl.where(first, tl.full([ROWS], 1.0, tl.float32), 0.0)
    acc = tl.where(first, tl.zeros([ROWS, SIZE], tl.float32) + value[None, :].to(tl.float32), 0.0)
    for start in tl.range(begin, end, TILE, num_stages=STAGES):
        token = start + member
        valid = token < end
        page = tl.load(table + token // PAGE, mask=valid, other=0).to(tl.int64)
        at = cache + page * block_stride + (token % PAGE) * token_stride
        keys = tl.load(at[:, None] + columns[None, :], mask=valid[:, None], other=0.0)
        values = tl.load(at[:, None] + SIZE + columns[None, :], mask=valid[:, None], other=0.0)
        scores = tl.where(valid[None, :], tl.dot(q, tl.trans(keys)) * scale, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, axis=1))
        rescale = tl.exp2(row_max - new_max)
        p = tl.exp2(scores - new_max[:, None])
        row_sum = row_sum * rescale + tl.sum(p, axis=1)
        acc = acc * rescale[:, None] + tl.dot(p.to(values.dtype), values)
        row_max = new_max

    out += sequence * out_stride + heads
    if splits == 1:
        tl.store(out, (acc / row_sum[:, None]).to(out.dtype.element_ty), mask=real)
    else:
        groups = tl.num_programs(1)
        group = sequence * groups + head
        places = tl.num_programs(0) * groups * SPLITS * GROUP  # of ``partials``; the max and sum of each follow
        at_row = (group * SPLITS + split) * GROUP + rows
        tl.store(partials + at_row[:, None] * SIZE + columns[None, :], acc, mask=real)
        stats = partials + places.to(tl.int64) * SIZE
        tl.store(stats + at_row * 2, row_max, mask=rows < GROUP)
        tl.store(stats + at_row * 2 + 1, row_sum, mask=rows < GROUP)
        tl.debug_barrier()  # all of this program's results are written before it is counted
        if tl.atomic_add(arrived + group, 1, sem="acq_rel") == splits - 1:
            combined = _combine(partials, stats, group, splits, rows, columns, real, ROWS, SIZE, GROUP, SPLITS)
            tl.store(out, combined.to(out.dtype.element_ty), mask=real)
            tl.store(arrived + group, 0)  # as the next layer expects it


def split_sizes(groups: int) -> tuple[int, int]:
    """Most splits of a sequence, and tokens per further split, for ``groups`` = sequences * key-value heads.

    Measured on an H100 (docs/benchmarks.md)."""
    for most, splits, tokens in ((16, 16, TILE), (64, 8, 2 * TILE), (128, 8, 3 * TILE), (256, 4, 1024)):
        if groups <= most:
            return splits, tokens
    return 4, 2048


class Workspace:
    """Memory for the splits of up to ``sequences`` sequences on one GPU; one kernel uses it at a time.

    ``partials`` (float32) holds an accumulator of ``size``, a max and a sum per split and query head; ``arrived``
    (int32) counts the finished splits of each sequence and key-value head, and is all zeros between kernels."""

    def __init__(self, sequences: int, heads: int, kv_heads: int, size: int, device: torch.device) -> None:
        rows = max(groups * split_sizes(groups)[0] for groups in range(kv_heads, sequences * kv_heads + 1, kv_heads))
        self.partials = torch.empty(rows * (heads // kv_heads) * (size + 2), dtype=torch.float32, device=device)
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
    tokens of a block, 2 * size], a key and its value side by side. ``table``: block table, [sequences, blocks].
    ``lengths``: [sequences], tokens of each sequence, the new one included; a sequence of length 0 is left alone.
    ``slots``: [sequences]; for a slot of -1 nothing is written."""
    sequences, kv_heads = len(lengths), key.shape[1]
    group, size = query.shape[1] // kv_heads, query.shape[2]
    splits, split_tokens = split_sizes(sequences * kv_heads)
    _decode[(sequences, kv_heads, splits)](
        out, query, key, value, cache, slots, table, lengths, workspace.partials, workspace.arrived, scale * LOG2_E,
        out.stride(0), query.stride(0), key.stride(0), value.stride(0), table.stride(0), cache.stride(0),
        cache.stride(1), cache.stride(2), group, ROWS, size, cache.shape[2],
        TILE, splits, split_tokens, STAGES, num_warps=WARPS,
    )  # fmt: skip
