"""``candidates.choose`` against the same choice made plainly: a sort of all logits, one field after the other.

``python -m tests.oracle.candidates_reference``: on a GPU as it is, on a CPU with TRITON_INTERPRET=1.
Prints as JSON how many rows were compared and which differ.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
STATES = 9


@triton.jit
def log1p(x):
    return tl.where(x > -1e-3, x - x * x / 2 + x * x * x / 3, tl.log(1 + x))


if INTERPRETED:
    libdevice.log1p = log1p  # the interpreter has none

from serving.runtimes.vllm import candidates  # noqa: E402 - its kernels take the function above


@triton.jit
def noise_kernel(out, seeds, positions, vocabulary, SIZE: tl.constexpr):
    row = tl.program_id(0)
    token = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    noise = candidates._gumbel(tl.load(seeds + row), tl.load(positions + row), token)
    tl.store(out + row * vocabulary + token, noise, mask=token < vocabulary)


def noise(seeds: torch.Tensor, positions: torch.Tensor, vocabulary: int) -> torch.Tensor:
    out = torch.empty(len(seeds), vocabulary, device=DEVICE)
    noise_kernel[len(seeds), triton.cdiv(vocabulary, 1024)](out, seeds.contiguous(), positions, vocabulary, 1024)
    return out


def plainly(logits: torch.Tensor, positions: torch.Tensor, of: dict[str, torch.Tensor]) -> torch.Tensor:
    """``of``: the fields of each row."""
    vocabulary = logits.shape[1]
    bits = of["prompt_words"][:, :, None] >> torch.arange(32, device=DEVICE) & 1
    counts = of["output_counts"]
    said = counts > 0
    seen = said | (bits.reshape(len(logits), -1)[:, :vocabulary] != 0)
    scale = torch.where(seen, of["repetition"][:, None], 1.0)
    value = logits.float()
    value = value * torch.where(value > 0, 1 / scale, scale)
    value = value - of["frequency"][:, None] * counts - of["presence"][:, None] * said
    greedy = of["temperature"][:, None] == 0
    value = value / torch.where(greedy, 1.0, of["temperature"][:, None])
    value, order = torch.sort(value, dim=1, descending=True, stable=True)
    rank = torch.arange(vocabulary, device=DEVICE)[None]
    kept = (rank < torch.where(greedy, 1, of["top_k"][:, None])) & (value > -torch.inf)
    kept &= value >= value[:, :1] + torch.log(of["min_p"])[:, None]
    share = torch.where(kept, torch.exp(value - value[:, :1]), 0.0)
    kept &= share.cumsum(1) - share < of["top_p"][:, None] * share.sum(1, keepdim=True)
    drawn = torch.where(greedy, 0.0, noise(of["seeds"], positions, vocabulary).gather(1, order))
    best = torch.where(kept | (rank == 0), value + drawn, -torch.inf).argmax(1, keepdim=True)
    return order.gather(1, best)[:, 0]


def fields(vocabulary: int, most_kept: int) -> dict[str, torch.Tensor]:
    """Every field set in some of ``STATES`` sequences and not in others."""

    def some(share: float, off: float, value: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.rand(STATES) < share, torch.full((STATES,), off), value)

    made = {
        "temperature": some(0.2, 0.0, torch.rand(STATES) * 1.5 + 0.05),
        "top_k": torch.randint(1, most_kept + 1, (STATES,), dtype=torch.int32),
        "top_p": some(0.3, 1.0, torch.rand(STATES)),
        "min_p": some(0.5, 0.0, torch.rand(STATES) * 0.3),
        "repetition": some(0.3, 1.0, torch.rand(STATES) + 0.6),
        "frequency": some(0.5, 0.0, torch.rand(STATES)),
        "presence": some(0.5, 0.0, torch.rand(STATES)),
        "seeds": torch.randint(-(2**62), 2**62, (STATES,)),
        "prompt_words": torch.randint(-(2**31), 2**31 - 1, (STATES, -(-vocabulary // 32))).to(torch.int32),
        "output_counts": torch.randint(-20, 4, (STATES, vocabulary), dtype=torch.int32).clamp(min=0),
    }
    return {name: value.to(DEVICE) for name, value in made.items()}


def cases() -> Iterator[tuple[torch.Tensor, int]]:
    """Logits and the largest top_k: ties (BF16), vocabularies below a group and beyond, few possible tokens."""
    shapes = [(151, 20, torch.float32), (1000, 20, torch.float32), (5000, 60, torch.bfloat16)]
    for vocabulary, most_kept, dtype in shapes if INTERPRETED else [*shapes, (152_064, 20, torch.bfloat16)]:
        for _ in range(3):
            logits = (torch.randn(4, vocabulary) * 4).to(dtype)
            logits[0, : vocabulary // 2] = -torch.inf
            logits[1] = -torch.inf
            logits[1, vocabulary // 3], logits[1, -1] = 1.0, 0.5
            yield logits.to(DEVICE), most_kept


def main() -> None:
    torch.manual_seed(5)
    rows, differing = 0, []
    for logits, most_kept in cases():
        of = fields(logits.shape[1], most_kept)
        states = torch.randperm(STATES)[: len(logits)].to(DEVICE)
        positions = torch.randint(0, 5000, (len(logits),)).to(DEVICE)
        before = logits.clone()
        chosen = candidates.choose(logits, states.to(torch.int32), positions, most_kept=most_kept, **of)
        assert torch.equal(before, logits)
        wanted = plainly(logits, positions, {name: value[states] for name, value in of.items()})
        rows += len(logits)
        differing += [[logits.shape[1], int(a), int(b)] for a, b in zip(chosen, wanted, strict=True) if a != b]
    print(json.dumps({"rows": rows, "differing": differing}))


if __name__ == "__main__":
    main()
