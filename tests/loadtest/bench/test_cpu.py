"""The arithmetic of the CPU benchmark; the measuring itself is ``make bench-cpu``."""

from __future__ import annotations

from loadtest.bench import cpu as bench_cpu
from loadtest.bench.cpu import Figures


def test_decode_counts_from_the_first_token() -> None:
    assert bench_cpu.figures(8, 11, first=1.0, last=3.0) == Figures(8, 1.0, 40.0, 88 / 3)


def test_rows_are_medians_with_their_spread() -> None:
    found = [Figures(1, 1.0, 10.0, 5.0), Figures(1, 3.0, 30.0, 6.0), Figures(1, 2.0, 20.0, 7.0)]
    row = bench_cpu.row("openvino-int8", 1, found)
    assert (row["ttft_s"], row["decode_tokens_per_s"], row["tokens_per_s"], row["rounds"]) == (2.0, 20.0, 6.0, 3)
    assert row["ttft_s_spread"] == [1.0, 3.0] and row["decode_tokens_per_s_spread"] == [10.0, 30.0]


def test_prompts_are_the_same_for_every_engine() -> None:
    assert bench_cpu.prompts(8, 16, seed=1) == bench_cpu.prompts(8, 16, seed=1)
    assert bench_cpu.prompts(8, 16, seed=1) != bench_cpu.prompts(8, 16, seed=0)
    assert [len(p) for p in bench_cpu.prompts(8, 16, seed=1)] == [16] * 8
