"""The accuracy gate: its verdicts on good and broken engines, what it prints, a real CPU engine against FP32."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from build_engine.__main__ import main
from build_engine.verify import gate as verify
from build_engine.verify import session as verify_session
from build_engine.verify.metrics import Accuracy, failures
from build_engine.verify.session import EngineScorer, Sample
from contract import engine_dir
from contract.engine_dir import EngineInfo, EngineLimits, ModelInfo, RuntimeInfo
from contract.errors import BuildError
from contract.paths import ROOT
from serving.runtimes.base import CAPABILITIES, RuntimeLimits, SequenceDelta
from tests.build_engine.verify.samples import GOOD, LIMITS, VOCAB, top

ENGINE = EngineInfo(
    ModelInfo("m", "synthetic", vocab_size=VOCAB), RuntimeInfo("openvino"), "int8", "int8", EngineLimits(512, 511)
)


class FakeRuntime:
    """A tiny deterministic model behind the runtime protocol; ``noise`` makes it a bad copy of itself."""

    capabilities = CAPABILITIES
    limits = RuntimeLimits(512, 511, VOCAB, 4)

    def __init__(self, on_step, on_death, noise: float = 0.0, loops: bool = False, dies: bool = False) -> None:
        self.on_step, self.on_death, self.noise, self.loops, self.dies = on_step, on_death, noise, loops, dies
        self.closed = False

    def logits(self, ids) -> np.ndarray:
        generator = np.random.default_rng(abs(hash(tuple(ids))) % 2**32)
        return generator.normal(0, 4, VOCAB) + np.random.default_rng(len(ids)).normal(0, 1, VOCAB) * self.noise

    def submit(self, request) -> None:
        if self.dies:
            self.on_death("CUDA error")
            return
        ids, sampling = list(request.input_ids), request.sampling
        for step in range(sampling.max_tokens):
            best = top(self.logits(ids))
            token = 0 if self.loops and sampling.max_tokens > 1 else best[0][0]
            ids.append(token)
            reason = "length" if step + 1 == sampling.max_tokens else None
            tops = (tuple(best),) if sampling.logprobs else ()
            self.on_step([SequenceDelta(request.sequence_id, [token], 1, reason, top_logprobs=tops)])

    def close(self) -> None:
        self.closed = True


def test_thresholds_file_has_every_limit_for_every_precision():
    for precision in ("fp8", "int8_sq", "int8_wo", "int8", "int4", "bf16", "fp32"):
        engine = dataclasses.replace(ENGINE, precision=precision)
        assert set(verify.load_settings(engine)["limits"]) == set(LIMITS)
    quantized = dataclasses.replace(ENGINE, runtime=RuntimeInfo("tensorrt_llm", "1.2.1", "engine"), kv_dtype="fp8")
    assert verify.load_settings(quantized)["prompts"]["long"] >= 200


@pytest.fixture
def use(monkeypatch):
    """``use(noise=…)``: the next engine that is loaded behaves so."""
    queue: list[dict] = []

    def load(engine, options, on_step, on_death):
        return FakeRuntime(on_step, on_death, **queue.pop(0))

    monkeypatch.setattr(verify_session.runtimes, "load", load)
    return lambda **how: queue.append(how)


def measured(use, **candidate) -> Accuracy:
    use()
    use(**candidate)
    prompts = [[1, 2, n] for n in range(12)]
    return verify.measure(EngineScorer(ENGINE), ENGINE, prompts)[0]


def test_the_same_model_passes(use):
    found = measured(use)
    assert failures(found, LIMITS) == [] and found.positions == 12 * verify.TARGET_TOKENS


def test_a_damaged_model_fails(use):
    missed = failures(measured(use, noise=3.0), LIMITS)
    assert any("mean_kl" in text for text in missed) and any("agreement" in text for text in missed)


def test_an_engine_that_writes_exclamation_marks_fails(use):
    assert any("repetition_rise" in text for text in failures(measured(use, loops=True), LIMITS))


def test_a_reference_path_with_spaces_is_recorded_whole_and_used_again(use, tmp_path):
    reference, engine = tmp_path / "my engines" / "ref", tmp_path / "candidate"
    for directory in (reference, engine):
        directory.mkdir(parents=True)
        engine_dir.write(ENGINE, directory)
    use()
    with EngineScorer(engine_dir.read(reference)) as scorer:
        names = (scorer.name, "candidate")
        verify.record(engine_dir.read(engine), GOOD, LIMITS, [], names, scorer.path, 1)
    recorded = engine_dir.read(engine)
    assert recorded.accuracy["reference_path"] == str(reference)
    assert verify.default_reference(recorded) == reference


def test_positions_come_in_the_samples_order(use):
    use()
    with EngineScorer(ENGINE) as scorer:
        samples = [Sample((n,), tuple(range(n % 3 + 1))) for n in range(20)]
        found = scorer.score(samples)
        assert [len(positions) for positions in found] == [len(sample.target) for sample in samples]
        runtime = scorer._runtime
        for sample, positions in zip(samples, found, strict=True):
            for t, position in enumerate(positions):
                assert list(position) == top(runtime.logits([*sample.prompt, *sample.target[:t]]))
    assert runtime.closed


def test_a_dying_runtime_is_one_line(use):
    use(dies=True)
    with pytest.raises(BuildError, match="CUDA error"):
        EngineScorer(ENGINE).answer([[1]], 4, greedy=True)


def test_a_slow_runtime_may_take_its_time_and_a_silent_one_is_one_line(use, monkeypatch):
    monkeypatch.setattr(verify_session, "SILENT_SECONDS", 0.5)

    def slowly(self, request, submit=FakeRuntime.submit):
        delay = 0.2 * request.sequence_id  # four requests: the last is done after more than the limit
        threading.Timer(delay, submit, (self, request)).start()

    monkeypatch.setattr(FakeRuntime, "submit", slowly)
    use()
    assert len(EngineScorer(ENGINE).answer([[1], [2], [3], [4]], 2, greedy=True)) == 4
    monkeypatch.setattr(FakeRuntime, "submit", lambda self, request: None)
    use()
    with pytest.raises(BuildError, match="gave no token for 0 s"):
        EngineScorer(ENGINE).answer([[1]], 2, greedy=True)


def test_wrong_references_are_one_line(tmp_path, capsys):
    assert main(["verify", "--engine", str(tmp_path)]) == 1
    assert "make engine" in capsys.readouterr().err
    engine = dataclasses.replace(ENGINE, path=tmp_path, model=ModelInfo("m", "/no/such/model"))
    with pytest.raises(BuildError, match="pass --reference"):
        verify.open_reference(dataclasses.replace(engine, runtime=RuntimeInfo("tensorrt_llm")), None)
    with pytest.raises(BuildError, match=r"neither a directory.* nor a hub id"):
        verify.open_reference(engine, None)
    with pytest.raises(BuildError, match="neither an engine nor a checkpoint"):
        verify.open_reference(engine, tmp_path)
    for other, message in (
        ({"precision": "int8"}, "other is int8: a reference must be unquantized"),
        ({"precision": "fp32", "runtime": RuntimeInfo("simulated")}, "other is simulated: a reference must be"),
        ({"precision": "fp32", "model": ModelInfo("m", "m", vocab_size=VOCAB + 1)}, "other has another vocabulary"),
    ):
        (tmp_path / "other").mkdir(exist_ok=True)
        engine_dir.write(dataclasses.replace(ENGINE, **other), tmp_path / "other")
        with pytest.raises(BuildError, match=message):
            verify.open_reference(engine, tmp_path / "other")
    with pytest.raises(BuildError, match="other is the engine itself: name what it was made from"):
        verify.open_reference(dataclasses.replace(ENGINE, path=tmp_path / "other"), tmp_path / "other")
    for sizes, message in ((["--prompts", "-1"], "--prompts -1: give a number"), (["--long", "-2"], "--long -2: give"),
                           (["--prompts", "0", "--long", "0"], "leaves nothing to compare")):  # fmt: skip
        engine_dir.write(ENGINE, tmp_path)
        assert main(["verify", "--engine", str(tmp_path), *sizes]) == 1
        assert message in capsys.readouterr().err
    simulated = dataclasses.replace(ENGINE, runtime=RuntimeInfo("simulated"))
    engine_dir.write(simulated, tmp_path)
    assert main(["verify", "--engine", str(tmp_path)]) == 1
    assert "no weights" in capsys.readouterr().err


# ---- a real engine on this machine


@pytest.fixture(scope="module")
def engines(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("engines")
    for precision in ("int8", "fp32"):
        arguments = ["build", "--model", "synthetic", "--precision", precision, "--context", "2048"]
        assert main([*arguments, "--runtime", "openvino", "--out", str(folder / precision)]) == 0
    return folder / "int8", folder / "fp32"


@pytest.fixture
def brief(monkeypatch):
    monkeypatch.setattr(verify, "TARGET_TOKENS", 8)
    monkeypatch.setattr(verify, "ANSWER_TOKENS", 48)


def test_openvino_int8_against_fp32_passes_and_is_recorded(engines, brief, capsys):
    quantized, reference = engines
    # Random weights tell many first tokens apart by next to nothing: INT8's were FP32's at 0.69 of 48 positions,
    # 0.83 of 104, 0.86 of 1,056.
    arguments = ["verify", "--engine", str(quantized), "--reference", str(reference), "--prompts", "12", "--long", "1"]
    assert main(arguments) == 0
    assert "passes the accuracy gate" in capsys.readouterr().out
    accuracy = engine_dir.read(quantized).accuracy
    assert accuracy["passed"] is True and accuracy["prompts"] == 13
    assert accuracy["confident_agreement"] >= 0.98 and accuracy["reference"].startswith("openvino fp32 engine")
    assert accuracy["perplexity_drift"] != 0, "an INT8 engine is not the FP32 one"


def test_another_models_weights_fail_the_gate(engines, brief, tmp_path, capsys):
    _, reference = engines
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in reference.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    weights = np.fromfile(damaged / "openvino_model.bin", np.uint16)
    weights[len(weights) // 2 : len(weights) * 3 // 4] = 0
    weights.tofile(damaged / "openvino_model.bin")
    arguments = ["verify", "--engine", str(damaged), "--reference", str(reference), "--prompts", "2", "--long", "0"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "fails the accuracy gate" in error
    recorded = json.loads((damaged / "engine.json").read_text())["accuracy"]
    assert recorded["passed"] is False and recorded["failed"]


# ---- what a user reads


def printed(document: str, title: str) -> str:
    """The first code block under a heading."""
    return re.search(rf"^## {re.escape(title)}.*?^```\n(.*?)^```", document, re.MULTILINE | re.DOTALL)[1]


def test_the_document_shows_what_a_failed_gate_prints(tmp_path, monkeypatch, capsys):
    """The figures stand in the document; everything around them is what the command really writes."""
    shown = printed((ROOT / "docs/building.md").read_text(), "When the gate fails")
    values = dict(re.findall(r"^(\w+) +(-?[\d.]+)   limit", shown, re.MULTILINE))
    names = re.findall(r"^(?:reference|candidate) +(.*)$", shown, re.MULTILINE)
    engine = dataclasses.replace(ENGINE, precision="int4", model=ModelInfo("smollm2", "smollm2", vocab_size=VOCAB))
    engine_dir.write(engine, tmp_path)
    accuracy = dataclasses.replace(GOOD, positions=384, **{name: float(value) for name, value in values.items()})
    monkeypatch.setattr(verify, "shipped_prompts", lambda *_: [])
    monkeypatch.setattr(verify, "open_reference", lambda *_: SimpleNamespace(path=tmp_path))
    monkeypatch.setattr(verify, "measure", lambda *_: (accuracy, tuple(names)))
    assert main(["verify", "--engine", str(tmp_path)]) == 1
    out, error = capsys.readouterr()
    assert (out + error).replace(str(tmp_path), names[1].split()[-1]) == shown


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"precision": "int8_sq", "runtime": RuntimeInfo("tensorrt_llm")}, "ALPHA=sweep"),
        ({"precision": "fp8", "runtime": RuntimeInfo("vllm"), "kv_dtype": "bf16"}, "PRECISION=int8"),
        ({"precision": "fp8", "runtime": RuntimeInfo("tensorrt_llm"), "kv_dtype": "bf16"}, "CALIBRATION="),
        ({"precision": "fp8", "runtime": RuntimeInfo("tensorrt_llm"), "kv_dtype": "fp8"}, "KV=bf16"),
        ({"precision": "int8", "runtime": RuntimeInfo("vllm")}, "LLMCOMPRESSOR_PYTHON="),
        ({"precision": "int4"}, "PRECISION=int8"),
        ({"precision": "bf16", "runtime": RuntimeInfo("vllm"), "kv_dtype": "bf16"}, "damaged files"),
    ],
)
def test_a_failure_ends_with_what_to_try(change, text):
    change = {"kv_dtype": "bf16"} | change if "runtime" in change else change
    assert text in verify.remedy(dataclasses.replace(ENGINE, **change))
