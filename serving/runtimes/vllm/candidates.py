"""Next tokens of a batch, from one pass over the logits.

vLLM's V2 sampler makes a pass over all logits for each of penalties, temperature, min_p, top-k and top-p. As soon as
one sequence of the batch is greedy or seeded, it also leaves FlashInfer's kernel for Triton's and, below 8 rows, for a
sort. None of that is needed where each sequence keeps at most ``MOST_KEPT`` tokens.

Our pass writes the largest penalized logit of each span of ``WIDTH`` tokens, and of each group of ``WIDTH`` spans. The
k groups with the largest maxima contain the k best tokens of the vocabulary, because each of these groups has a token
that is no smaller than any token outside them; in a tie the lower token id wins, as does the lower group. The same
holds for the spans of those groups, and for the tokens of those spans. So the kernel that chooses looks only at
k * ``WIDTH`` spans and at as many tokens.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

WIDTH = 16
GROUPS_A_PROGRAM = 8
FEWEST_KEPT, MOST_KEPT = 32, 64  # powers of two; the second kernel is compiled for both
COLUMNS = 8  # of the parameters: temperature, top_k, top_p, min_p, repetition, frequency, presence, unused


@triton.jit
def _parameters(
    out, seeds_out, states, temperature, top_k, top_p, min_p, repetition, frequency, presence, seeds,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """One row of ``out`` per sequence. vLLM keeps these values in host memory, where every read crosses the bus."""
    row = tl.program_id(0)
    state = tl.load(states + row)
    out += row * COLUMNS
    tl.store(out, tl.load(temperature + state))
    tl.store(out + 1, tl.load(top_k + state).to(tl.float32))
    tl.store(out + 2, tl.load(top_p + state))
    tl.store(out + 3, tl.load(min_p + state))
    tl.store(out + 4, tl.load(repetition + state))
    tl.store(out + 5, tl.load(frequency + state))
    tl.store(out + 6, tl.load(presence + state))
    tl.store(seeds_out + row, tl.load(seeds + state))


@triton.jit
def _penalized(logit, token, valid, row, prompt_words, output_counts):
    """``logit`` after the penalties in ``row``, as vLLM applies them (``_penalties_kernel``)."""
    repetition, frequency, presence = tl.load(row + 4), tl.load(row + 5), tl.load(row + 6)
    if (repetition != 1.0) | (frequency != 0.0) | (presence != 0.0):
        count = tl.load(output_counts + token, mask=valid, other=0)
        word = tl.load(prompt_words + token // 32, mask=valid, other=0)
        said = count > 0
        scale = tl.where(said | (((word >> (token % 32)) & 1) != 0), repetition, 1.0)
        logit = logit * tl.where(logit > 0, 1.0 / scale, scale)
        logit = logit - frequency * count - presence * said.to(tl.float32)
    return logit


@triton.jit
def _maxima(
    span_maxima, group_maxima, logits, stride, vocabulary, states, parameters, words, words_stride, counts,
    counts_stride, groups, WIDTH: tl.constexpr, GROUPS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    state = tl.load(states + row).to(tl.int64)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    span = tl.program_id(1) * GROUPS * WIDTH + tl.arange(0, GROUPS * WIDTH)
    token = span[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    valid = token < vocabulary
    logit = tl.load(logits + row * stride + token, mask=valid, other=float("-inf")).to(tl.float32)
    logit = _penalized(
        logit, token, valid, parameters + row * COLUMNS, words + state * words_stride, counts + state * counts_stride
    )
    largest = tl.max(logit, axis=1)
    tl.store(span_maxima + row * groups * WIDTH + span, largest, mask=span < groups * WIDTH)
    largest = tl.max(tl.reshape(largest, [GROUPS, WIDTH]), axis=1)
    tl.store(group_maxima + row * groups + group, largest, mask=group < groups)


@triton.jit
def _packed(value, index):
    """An integer that sorts like ``value`` and, of equal values, the lower ``index`` first from above."""
    bits = value.to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (key.to(tl.int64) << 32) | (0x7FFFFFFF - index).to(tl.int64)


@triton.jit
def _index(packed):
    return 0x7FFFFFFF - (packed & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def _value(packed):
    key = (packed >> 32).to(tl.int32)
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _gumbel(seed, position, token):
    """vLLM's noise (``gumbel_block_argmax``): a seeded answer is the same whichever way its batch was sampled."""
    u = tl.rand(tl.randint(seed, position), token)
    return -tl.log(-libdevice.log1p(-tl.maximum(u, 4.6566127342e-10)))


@triton.jit
def _choose(
    chosen, span_maxima, group_maxima, groups, logits, stride, vocabulary, states, parameters, seeds, positions, words,
    words_stride, counts, counts_stride, WIDTH: tl.constexpr, SLOTS: tl.constexpr, KEPT: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    state = tl.load(states + row).to(tl.int64)
    parameters += row * COLUMNS
    slot = tl.arange(0, SLOTS)
    member = tl.arange(0, WIDTH)
    largest = tl.load(group_maxima + row * groups + slot, mask=slot < groups, other=float("-inf"))
    group = _index(tl.topk(_packed(largest, slot), KEPT))
    span = group[:, None] * WIDTH + member[None, :]
    largest = tl.load(span_maxima + row * groups * WIDTH + span, mask=span < groups * WIDTH, other=float("-inf"))
    span = _index(tl.topk(tl.reshape(_packed(largest, span), [KEPT * WIDTH]), KEPT))
    token = span[:, None] * WIDTH + member[None, :]
    valid = token < vocabulary
    logit = tl.load(logits + row * stride + token, mask=valid, other=float("-inf")).to(tl.float32)
    logit = _penalized(logit, token, valid, parameters, words + state * words_stride, counts + state * counts_stride)
    best = tl.topk(tl.reshape(_packed(logit, token), [KEPT * WIDTH]), KEPT)

    temperature, top_k = tl.load(parameters), tl.load(parameters + 1)
    top_p, min_p = tl.load(parameters + 2), tl.load(parameters + 3)
    greedy = temperature == 0.0
    rank = tl.arange(0, KEPT)
    token = _index(best)
    value = _value(best) / tl.where(greedy, 1.0, temperature)
    kept = (rank < tl.where(greedy, 1.0, top_k)) & (value > float("-inf"))
    peak = tl.max(value, axis=0)
    kept = kept & (value >= peak + tl.log(min_p))
    share = tl.where(kept, tl.exp(value - peak), 0.0)
    before = tl.cumsum(share, axis=0) - share
    kept = kept & (before < top_p * tl.sum(share, axis=0))
    noise = _gumbel(tl.load(seeds + row), tl.load(positions + row), token)
    value = tl.where(kept | (rank == 0), value + tl.where(greedy, 0.0, noise), float("-inf"))
    winner = tl.argmax(value, axis=0)
    tl.store(chosen + row, tl.sum(tl.where(rank == winner, token, 0), axis=0).to(tl.int64))


def choose(
    logits: torch.Tensor,
    states: torch.Tensor,
    positions: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    repetition: torch.Tensor,
    frequency: torch.Tensor,
    presence: torch.Tensor,
    seeds: torch.Tensor,
    prompt_words: torch.Tensor,
    output_counts: torch.Tensor,
    most_kept: int,
) -> torch.Tensor:
    """Token ids [rows], int64, for ``logits`` [rows, vocabulary], which stay as they are.

    ``states`` [rows] says which entry of the parameters, of ``prompt_words`` (a bit per token of the prompt, [entries,
    vocabulary / 32]) and of ``output_counts`` [entries, vocabulary] a row has; ``positions`` [rows] and ``seeds`` fix
    its noise. ``top_k`` of a row with a temperature may be at most ``most_kept``, which is at most ``MOST_KEPT``.
    """
    rows, vocabulary = logits.shape
    groups = triton.cdiv(vocabulary, WIDTH * WIDTH)
    device = logits.device
    parameters = torch.empty(rows, COLUMNS, dtype=torch.float32, device=device)
    row_seeds = torch.empty(rows, dtype=torch.int64, device=device)
    span_maxima = torch.empty(rows, groups * WIDTH, dtype=torch.float32, device=device)
    group_maxima = torch.empty(rows, groups, dtype=torch.float32, device=device)
    chosen = torch.empty(rows, dtype=torch.int64, device=device)
    _parameters[(rows,)](
        parameters, row_seeds, states, temperature, top_k, top_p, min_p, repetition, frequency, presence, seeds,
        COLUMNS, num_warps=1,
    )  # fmt: skip
    history = (prompt_words, prompt_words.stride(0), output_counts, output_counts.stride(0))
    _maxima[(rows, triton.cdiv(groups, GROUPS_A_PROGRAM))](
        span_maxima, group_maxima, logits, logits.stride(0), vocabulary, states, parameters, *history, groups, WIDTH,
        GROUPS_A_PROGRAM, COLUMNS,
    )  # fmt: skip
    _choose[(rows,)](
        chosen, span_maxima, group_maxima, groups, logits, logits.stride(0), vocabulary, states, parameters, row_seeds,
        positions, *history, WIDTH, max(triton.next_power_of_2(groups), MOST_KEPT),
        FEWEST_KEPT if most_kept <= FEWEST_KEPT else MOST_KEPT, COLUMNS,
    )  # fmt: skip
    return chosen
