"""The arithmetic of the CPU benchmark; the measuring itself is ``make bench-cpu``."""

from __future__ import annotations

import dataclasses

import pytest

from loadtest.bench.cpu import figures
from loadtest.bench.cpu.__main__ import markdown, with_ratios
from loadtest.bench.cpu.figures import Figures, Workload

LOAD = Workload(streams=(8,), length=16, tokens=11, vocabulary=1000, threads=0)


def test_prefill_ends_and_decode_begins_with_the_first_token() -> None:
    assert figures.figures(LOAD, 8, first=1.0, last=3.0) == Figures(8, 1.0, 128.0, 40.0)


def test_prompts_are_the_same_for_every_engine_and_within_the_vocabulary() -> None:
    assert figures.prompts(LOAD, 8, seed=1) == figures.prompts(LOAD, 8, seed=1) != figures.prompts(LOAD, 8, seed=0)
    assert [len(p) for p in figures.prompts(LOAD, 8, seed=1)] == [16] * 8
    assert max(map(max, figures.prompts(dataclasses.replace(LOAD, vocabulary=5), 8, seed=1))) == 4


def test_an_engine_that_stops_early_is_not_measured() -> None:
    with pytest.raises(RuntimeError, match="3 tokens came, 11"):
        figures.measured(LOAD, lambda prompts, tokens: [1.0, 2.0, 3.0])


def test_rows_are_medians_with_their_spread_and_ours_has_the_ratios() -> None:
    ours = [Figures(1, 1.0, 100.0, 10.0), Figures(1, 3.0, 300.0, 30.0), Figures(1, 2.0, 200.0, 20.0)]
    rows = [figures.row("ours-int8", 1, ours), figures.row("llama.cpp-q8_0", 1, [Figures(1, 4.0, 50.0, 25.0)])]
    assert (rows[0]["ttft_s"], rows[0]["prefill_tokens_per_s"], rows[0]["decode_tokens_per_s"]) == (2.0, 200.0, 20.0)
    assert rows[0]["decode_tokens_per_s_spread"] == [10.0, 30.0] and rows[0]["rounds"] == 3
    first, second = with_ratios(rows, "ours-int8")
    assert first["prefill_over"] == {"llama.cpp-q8_0": 4.0} and first["decode_over"] == {"llama.cpp-q8_0": 0.8}
    assert "decode_over" not in second
    assert "| llama.cpp-q8_0 | 1 | 4000 | 50 | 25.0 (25.0–25.0) | 4.00 × | 0.80 × |" in markdown(rows)


def test_texts_are_asked_one_by_one_and_count_all_tokens_over_all_time() -> None:
    load = dataclasses.replace(LOAD, texts=(([1, 2, 3], 9), ([4], 5)), ends=(0,))
    asked: list[tuple[list[list[int]], int]] = []

    def ask(prompts: list[list[int]], tokens: int) -> list[float]:
        asked.append((prompts, tokens))
        return {9: [1.0, 2.0, 2.0, 4.0], 5: [3.0, 3.5]}.get(tokens, [0.0])

    assert figures.measured(load, ask) == [Figures(1, 2.0, 4 / 4.0, 4 / 3.5)]
    assert asked[1:] == [([[1, 2, 3]], 9), ([[4]], 5)]
