"""Every keyword the adapter hands to TensorRT-LLM: as recorded, and declared by the published surface.

``UPDATE_GOLDEN=1 pytest tests/serving/runtimes/tensorrt_llm/test_golden.py`` writes the golden file anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from contract.paths import ROOT
from contract.sampling import ANY_OBJECT, Guide, Sampling
from serving.runtimes.base import RuntimeOptions
from serving.runtimes.tensorrt_llm import args as tensorrt_llm_args
from serving.runtimes.tensorrt_llm import params as tensorrt_llm_params
from serving.runtimes.tensorrt_llm.args import Surface
from tests.serving.runtimes.tensorrt_llm.harness import ALL, write_engine

TESTS = ROOT / "tests"
GOLDEN = TESTS / "golden" / "trtllm_llm_api.json"
SURFACE = json.loads((TESTS / "data" / "tensorrt_llm_surface.json").read_text())
V12 = SURFACE["tensorrt_llm==1.2.1"]

SAMPLINGS = {
    "greedy": Sampling(64, temperature=0.0, stop_token_ids=(151645, 151643)),
    "qwen defaults": Sampling(
        64, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05, seed=2**63, stop_token_ids=(151645, 151643)
    ),
    "everything": Sampling(
        64,
        temperature=1.0,
        top_p=0.9,
        top_k=0,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        seed=7,
        min_tokens=4,
        stop_token_ids=(151645, 151643, 99),
        bad_words=((5,), (6, 7)),
        logprobs=6,
    ),
    "ignore_eos": Sampling(64, temperature=0.0, ignore_eos=True),
    "ignore_eos with a stop id": Sampling(64, temperature=0.0, ignore_eos=True, stop_token_ids=(99,)),
    "own end id": Sampling(64, temperature=0.0, stop_token_ids=(99,)),
    "chosen log probability only": Sampling(64, temperature=0.0, stop_token_ids=(151645,), logprobs=1),
}
TAG = '{"type": "structural_tag", "format": {"type": "const_string", "value": "a"}}'
GUIDES = [
    Guide("json", ANY_OBJECT), Guide("json_schema", "{}"), Guide("regex", "a+"), Guide("ebnf_grammar", 'root ::= "a"'),
    Guide("structural_tag", TAG),
]  # fmt: skip


def names(version: str, section: str) -> set[str]:
    """1.4's file lists only what changed for some classes."""
    return set(SURFACE[f"tensorrt_llm=={version}"].get(section) or V12[section]) - {"**kwargs"}


def recorder(section: str, version: str):
    """A class whose only fields are the published ones; what it was given can be written as JSON."""

    def make(**given):
        assert set(given) <= names(version, section), (section, set(given) - names(version, section))
        return {section: given}

    return make


def llm_keywords(tmp_path: Path, backend: str, version: str, kv_dtype: str, gather: bool) -> dict:
    kinds = ("KvCacheConfig", "SchedulerConfig", "CudaGraphConfig")
    package = SimpleNamespace(llm_args=SimpleNamespace(**{kind: recorder(kind, version) for kind in kinds}))
    section = "TrtLlmArgs" if backend == "engine" else "TorchLlmArgs"
    surface = Surface(
        version,
        frozenset(names(version, section)),
        frozenset(names(version, "SchedulerConfig")),
        frozenset(names(version, "LLM.generate_async")),
    )
    engine = write_engine(tmp_path / f"{backend}{version}{kv_dtype}{gather}", backend, version, kv_dtype)
    options = RuntimeOptions(max_streams=256, kv_cache_bytes=2**30)
    found = tensorrt_llm_args.llm_arguments(package, engine, options, surface, gather)
    assert set(found) <= names(version, section), "a field that this version does not declare"
    return json.loads(json.dumps(found).replace(str(engine.path), "ENGINE_DIR"))


def current(tmp_path: Path) -> dict:
    loads = {}
    for backend, version in ALL:
        for kv_dtype in ("bf16", "fp8", "int8") if backend == "engine" else ("bf16", "fp8"):
            loads[f"{backend} {version} kv {kv_dtype}"] = llm_keywords(tmp_path, backend, version, kv_dtype, False)
    loads["engine 1.2.1 for the accuracy gate"] = llm_keywords(tmp_path, "engine", "1.2.1", "bf16", True)
    sampling = {name: tensorrt_llm_params.arguments(value, 151645) for name, value in SAMPLINGS.items()}
    guides = {guide.type: tensorrt_llm_params.guide_arguments(guide) for guide in GUIDES}
    return {"LLM": loads, "SamplingParams": sampling, "GuidedDecodingParams": guides}


def test_golden(tmp_path):
    text = json.dumps(current(tmp_path), indent=1, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


@pytest.mark.parametrize("version", ["1.2.1", "1.4"])
def test_sampling_and_guide_fields_are_published(version, tmp_path):
    found = current(tmp_path)
    for section in ("SamplingParams", "GuidedDecodingParams"):
        for keywords in found[section].values():
            assert set(keywords) <= names(version, section)
    assert "_bad_word_ids" in names(version, "SamplingParams")


def test_what_must_not_be_passed_is_not(tmp_path):
    """An engine's own limits and KV type (docs/tensorrt_llm_facts.md, "LLM API"), and no remote code."""
    for name, keywords in current(tmp_path)["LLM"].items():
        assert keywords["trust_remote_code"] is False
        if name.startswith("engine"):
            assert not {"max_seq_len", "max_input_len", "max_beam_width", "sampler_type"} & set(keywords)
            assert "dtype" not in keywords["kv_cache_config"]["KvCacheConfig"]
        assert ("sampler_type" in keywords) == name.startswith("pytorch 1.2.1")
        assert ("tokenizer" in keywords) != keywords.get("skip_tokenizer_init", False)


def test_an_int8_kv_cache_goes_without_reuse_and_chunks(tmp_path):
    keywords = current(tmp_path)["LLM"]["engine 1.2.1 kv int8"]
    assert keywords["enable_chunked_prefill"] is False
    assert keywords["kv_cache_config"]["KvCacheConfig"]["enable_block_reuse"] is False
