"""The table of the five mitigations: ratios, pages, and what happens when one of them cannot be measured."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType

from contract.engine_dir import EngineInfo, EngineLimits, ModelInfo, RuntimeInfo
from contract.paths import ROOT
from loadtest.bench import result
from loadtest.bench.process import started
from loadtest.bench.strategies import __main__ as strategies
from loadtest.bench.strategies import mitigations
from loadtest.bench.strategies.commands import build_engine
from loadtest.bench.strategies.effect import Effect, Measurement
from loadtest.bench.strategies.mitigations import CLAIMS, EngineSet, default_engines, weights_mib
from loadtest.bench.strategies.prompts import token_ids
from loadtest.errors import LoadtestError
from tests.build_engine.gguf import files
from tests.byte_tokenizer import byte_tokenizer
from tests.loadtest.test_figures import Page
from tests.oracle import tiny


def row(name: str, better: str, before: Measurement, after: Measurement) -> Effect:
    return Effect(name, CLAIMS["quantization"], "measure", before, after, better)


ROWS = [
    row("1 quantization", "less", Measurement("FP32", 1000, "MiB", "a"), Measurement("INT8", 250, "MiB", "b")),
    row("2 batching", "more", Measurement("one", 10, "tokens/s", "c"), Measurement("<8>", 5, "tokens/s", "d")),
]


def test_ratio_is_how_many_times_better() -> None:
    assert [row.ratio for row in ROWS] == [4.0, 0.5]
    assert "4.00×" in strategies.table(ROWS) and "0.50×" in strategies.table(ROWS)


def test_every_row_names_its_claim_commands_and_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    about = result.environment("strategies", model="synthetic-0.5b")
    strategies.write(ROWS, about, ["attention: no switch"])
    data = json.loads(strategies.JSON.read_text())
    assert [row["ratio"] for row in data["rows"]] == [4.0, 0.5] and data["environment"]["cores"] > 0
    assert all(row["claim"] and row["before"]["command"] and row["after"]["command"] for row in data["rows"])
    html = strategies.HTML.read_text()
    page = Page(html)
    assert page.tags.count("rect") == 2 and page.links == [] and "&lt;8&gt;" in html
    assert "not measured: attention: no switch" in html and "claim: qualitative" in html


def test_one_mitigation_that_fails_leaves_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(engines: EngineSet) -> Iterator[Effect]:
        yield ROWS[0]
        raise LoadtestError("batching: .venv-oracle is missing")

    rows: list[Effect] = []
    engines = default_engines("synthetic", Path("engines"))
    assert strategies.attempt(broken, engines, rows.append) == ["batching: .venv-oracle is missing"]
    assert rows == [ROWS[0]] and "strategies: batching" in capsys.readouterr().err


def test_a_build_or_a_server_that_fails_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LoadtestError, match=r"^engine int8: the build failed: [^\n]+$"):
        build_engine(str(tmp_path / "no checkpoint"), "int8", tmp_path / "engine", "openvino")
    with (
        pytest.raises(LoadtestError, match=r"^the server did not start: [^\n]+$"),
        started("--engine", str(tmp_path / "none")),
    ):
        pass


def test_the_prompts_are_real_text_of_exact_lengths(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    prompts = token_ids(tmp_path, [40, 40, 900])
    assert [len(prompt) for prompt in prompts] == [40, 40, 900]
    assert prompts[0][:10] != prompts[1][:10], "no prefix cache may help"
    assert re.search(r"[a-z]+ [a-z]+ [a-z]+", tokenizer.decode(prompts[2]))


def test_few_bits_are_not_rounded_to_few_bits_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mitigations.shutil, "which", lambda _: None)  # no GPU
    config = tiny.COMMON | tiny.CONFIGS["llama"]
    for kind, small in ((GGMLQuantizationType.Q4_0, ("int8",)), (GGMLQuantizationType.Q8_0, ("int8", "int4"))):
        file = files.write(tmp_path / f"{kind.name}.gguf", config, tiny.tensors(config), kind)
        assert default_engines(str(file), tmp_path).small == small
    monkeypatch.setattr("sys.argv", ["strategies", "--model", str(tmp_path / "none.gguf")])
    with pytest.raises(SystemExit, match="2"):
        strategies.main()


def test_the_kv_cache_holds_two_sequences_of_the_whole_context(tmp_path: Path) -> None:
    """vLLM does not start with less than one: a 7B engine of 32,768 tokens did not with a quarter of a GiB."""
    shutil.copy(ROOT / "build_engine/data/qwen2.5-7b-instruct.config.json", tmp_path / "config.json")
    info = EngineInfo(
        ModelInfo("m", "s", vocab_size=8), RuntimeInfo("vllm"), "fp8", "bf16", EngineLimits(32768, 32767), path=tmp_path
    )
    assert mitigations.kv_gib(info) == 3.5  # 56 KiB a token
    assert mitigations.kv_gib(dataclasses.replace(info, kv_dtype="fp8")) == 1.75


def test_weights_are_the_engines_large_files(tmp_path: Path) -> None:
    (tmp_path / "openvino_model.bin").write_bytes(bytes(2**20))
    (tmp_path / "tokenizer.json").write_bytes(bytes(2**20))
    assert weights_mib(tmp_path) == 1.0


def test_what_was_measured_is_written_before_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(engines: EngineSet) -> Iterator[Effect]:
        yield ROWS[1]
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["strategies"])
    monkeypatch.setattr(strategies, "default_engines", lambda *args: EngineSet("m", "fp32", ("int8",), tmp_path))
    monkeypatch.setattr(strategies, "MITIGATIONS", (lambda engines: iter(ROWS[:1]), interrupted))
    with pytest.raises(KeyboardInterrupt):
        strategies.main()
    rows = json.loads(strategies.JSON.read_text())["rows"]
    assert [row["mitigation"] for row in rows] == ["1 quantization", "2 batching"]
    assert "1 quantization" in strategies.HTML.read_text()
