"""FP8 export: what is asked of ModelOpt (names from its published surface) and what of its answer is believed."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from build_engine import modelopt_export
from contract.errors import BuildError
from contract.paths import ROOT

SURFACE = json.loads((ROOT / "tests" / "data" / "tensorrt_llm_surface.json").read_text())
EXPORTED = {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}
PRESETS = {  # 0.37 keeps quant_cfg as a dict, 0.47 as a list
    "0.37.0": ({"*weight_quantizer": {"num_bits": (4, 3)}, "default": {}}, {"*[kv]_bmm_quantizer": {}, "default": {}}),
    "0.47.0": ([{"quantizer_name": "*weight_quantizer"}], [{"quantizer_name": "*[kv]_bmm_quantizer"}]),
}


class Model:
    def __init__(self) -> None:
        self.prompts = []

    def eval(self):
        return self

    def to(self, device):
        self.device = device
        return self

    def __call__(self, ids):
        self.prompts.append(ids)


@pytest.fixture(params=PRESETS)
def modelopt(request, monkeypatch):
    """Fakes of torch, transformers and modelopt whose functions take just the published keywords."""
    surface = SURFACE[f"nvidia-modelopt=={request.param}"]
    plain, kv = PRESETS[request.param]
    seen = SimpleNamespace(model=Model(), exported=dict(EXPORTED))

    def quantize(model, config, forward_loop=None):
        seen.config = config
        forward_loop(model)

    def export_hf_checkpoint(model, **keywords):
        assert set(keywords) <= set(surface["modelopt.torch.export.export_hf_checkpoint"])
        target = Path(keywords["export_dir"])
        (target / "model.safetensors").write_bytes(b"fp8")
        (target / "hf_quant_config.json").write_text(json.dumps({"quantization": seen.exported}))

    assert {"FP8_DEFAULT_CFG", "FP8_KV_CFG"} <= set(surface["quantization configs"])
    quantization = SimpleNamespace(
        quantize=quantize,
        FP8_DEFAULT_CFG={"quant_cfg": plain, "algorithm": "max"},
        FP8_KV_CFG={"quant_cfg": kv, "algorithm": "max"},
    )
    load = SimpleNamespace(from_pretrained=lambda path, **_: seen.model)
    words = SimpleNamespace(
        from_pretrained=lambda path: lambda text, **k: {"input_ids": text.split()[: k["max_length"]]}
    )
    torch = SimpleNamespace(
        bfloat16="bf16", tensor=lambda value, device: value, no_grad=contextlib.nullcontext,
        inference_mode=contextlib.nullcontext,
    )  # fmt: skip
    fakes = {
        "torch": torch,
        "transformers": SimpleNamespace(AutoModelForCausalLM=load, AutoTokenizer=words),
        "modelopt": ModuleType("modelopt"),
        "modelopt.torch": ModuleType("modelopt.torch"),
        "modelopt.torch.export": SimpleNamespace(export_hf_checkpoint=export_hf_checkpoint),
        "modelopt.torch.quantization": quantization,
    }
    for name, module in fakes.items():
        monkeypatch.setitem(sys.modules, name, module)
    fakes["modelopt"].torch = fakes["modelopt.torch"]
    fakes["modelopt.torch"].export = fakes["modelopt.torch.export"]
    fakes["modelopt.torch"].quantization = quantization
    return seen


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "bf16"
    path.mkdir()
    (path / "tokenizer.json").write_text("{}")
    return path


def test_all_prompts_are_seen_cut_to_length_and_the_tokenizer_comes_along(modelopt, source, tmp_path):
    out = modelopt_export.export_fp8(source, tmp_path / "fp8", ["a b c d", "e"], max_tokens=3)
    assert modelopt.model.prompts == [[["a", "b", "c"]], [["e"]]]
    assert sorted(path.name for path in out.iterdir()) == [
        "hf_quant_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert modelopt.model.device == "cuda" and not (tmp_path / "fp8.partial").exists()


def test_kv_quantizers_only_on_request(modelopt, source, tmp_path):
    modelopt_export.export_fp8(source, tmp_path / "a", ["x"])
    assert "bmm" not in str(modelopt.config)
    modelopt.exported = {**EXPORTED, "kv_cache_quant_algo": "FP8"}
    modelopt_export.export_fp8(source, tmp_path / "b", ["x"], fp8_kv=True)
    assert "bmm" in str(modelopt.config["quant_cfg"]) and "weight" in str(modelopt.config["quant_cfg"])


@pytest.mark.parametrize(
    "wrong",
    [{"quant_algo": "W8A8_SQ_PER_CHANNEL"}, {"kv_cache_quant_algo": "FP8"}, {"exclude_modules": []}],
)
def test_an_export_that_is_not_what_was_asked_never_looks_finished(modelopt, source, tmp_path, wrong):
    modelopt.exported = {**EXPORTED, **wrong}
    with pytest.raises(BuildError, match=r"versions\.toml"):
        modelopt_export.export_fp8(source, tmp_path / "fp8", ["x"])
    assert not (tmp_path / "fp8").exists()


def test_without_modelopt_one_line(monkeypatch, source, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "modelopt", None)
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"text": "x"}\n')
    arguments = ["--model", str(source), "--output", str(tmp_path / "o"), "--calibration", str(prompts)]
    with pytest.raises(SystemExit):
        modelopt_export.main(arguments)
    assert "needs nvidia-modelopt" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", '{"article": "x"}'])
def test_a_wrong_calibration_file_is_one_line(tmp_path, content):
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(BuildError):
        modelopt_export.read_prompts(path)
