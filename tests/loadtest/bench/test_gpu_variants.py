"""Engine options against each other, without a GPU: what they name, what they share, their rounds."""

from __future__ import annotations

import json

from contract import engine_dir
from contract.paths import ROOT
from contract.versions import pinned
from loadtest.bench.gpu import variants
from loadtest.errors import LoadtestError
from serving.runtimes.vllm import args as vllm_args


def test_variants_name_arguments_of_the_pinned_vllm_and_none_that_the_server_sets():
    surface = json.loads((ROOT / f"tests/standins/vllm_surface_{pinned('vllm')}.json").read_text())
    known = set(surface["names"]["vllm.engine.arg_utils.EngineArgs"]["fields"])
    for variant in variants.VARIANTS.values():
        assert set(variant.options) <= known - vllm_args.OURS


def test_rounds_of_variants_become_medians():
    rows = [
        {"variant": "a", "load": "1", "round": n, "tokens_per_s": speed} for n, speed in enumerate((90.0, 110.0, 100.0))
    ]
    (row,) = variants.medians(rows)
    assert (row["tokens_per_s"], row["spread"], row["rounds"]) == (100.0, 0.2, 3)


def test_variants_of_one_build_share_its_weights_and_keep_their_options(tmp_path):
    args = variants.arguments(["--work", str(tmp_path), "--only", "base", "steps-1k"])
    base, steps = (variants.engine_of(name, args) for name in args.only)
    assert (base / "tokenizer.json").samefile(steps / "tokenizer.json")
    assert engine_dir.read(steps).runtime.options == {"max_num_batched_tokens": 1024}
    assert engine_dir.read(base).runtime.options == {}


def test_variants_run_in_rounds_and_one_that_fails_ends_alone(tmp_path, monkeypatch):
    asked, stopped = [], []

    class Worker:
        def __init__(self, directory, kv_gib, log, name, start_s, environment):
            self.name = name

        def launch(self):
            pass

        def await_or_note(self):
            pass

        def wait_ready(self):
            if self.name == "steps-1k":
                raise LoadtestError("it did not start")
            return 1.0

        def run(self, load):
            asked.append((self.name, str(load)))
            return {"tokens_per_s": 10.0}

        def stop(self):
            stopped.append(self.name)

    monkeypatch.setattr(variants, "RuntimeWorker", Worker)
    command = "--only base steps-1k static --streams 1 4 --sampling defaults --rounds 2 --work"
    args = variants.arguments([*command.split(), str(tmp_path)])
    rows = variants.run(args)
    assert {row["variant"] for row in rows if "error" in row} == {"steps-1k", "static"}  # static needs weights
    each = ["1 streams, defaults", "4 streams, defaults"]
    assert [load for name, load in asked if name == "base"] == ["4 streams, defaults", *each, *each]
    assert set(stopped) == {"base", "steps-1k"}
