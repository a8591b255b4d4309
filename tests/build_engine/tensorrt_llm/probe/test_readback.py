"""What an engine and its gate say about a build, with planted differences."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from build_engine.plan import profiles
from build_engine.plan.fit import PlanRequest
from build_engine.plan.model import DEFAULT_MODEL, load
from build_engine.plan.planner import plan
from build_engine.tensorrt_llm import commands
from build_engine.tensorrt_llm.probe import readback
from contract import engine_dir, gpus
from contract.engine_dir import BuildInfo
from tests.serving.runtimes.tensorrt_llm.harness import write_engine

ASKED = plan(load(DEFAULT_MODEL), PlanRequest(gpus.by_name("h100"), profiles.PROFILES["chat"]))
COMMAND = commands.engine_command(ASKED, Path("/w/checkpoint"), Path("/w/engine"))
# As TensorRT-LLM writes it: `auto` has become a type, what is off is null, names of enums stand in full.
CONFIG = {
    "pretrained_config": {"logits_dtype": "float32"},
    "build_config": {
        "max_batch_size": ASKED.max_batch_size, "max_num_tokens": ASKED.max_num_tokens,
        "max_input_len": ASKED.max_input_len, "max_seq_len": ASKED.max_seq_len, "max_beam_width": 1,
        "kv_cache_type": "KVCacheType.PAGED",
        "plugin_config": {
            "gpt_attention_plugin": "bfloat16", "gemm_plugin": None, "remove_input_padding": True, "context_fmha": True,
            "use_paged_context_fmha": True, "use_fp8_context_fmha": False, "multiple_profiles": True,
        },
    },
}  # fmt: skip


def changed(**plugins) -> dict:
    config = json.loads(json.dumps(CONFIG))
    config["build_config"]["plugin_config"].update(plugins)
    return config


@pytest.fixture
def engine(tmp_path):
    found = write_engine(tmp_path / "e", "engine")
    line = shlex.join(["docker", "run", "--rm", "image", *COMMAND])
    return dataclasses.replace(found, build=BuildInfo(["quantize.py --x", line]))


def result(engine, config):
    (engine.path / "engine" / "config.json").write_text(json.dumps(config))
    return readback.built(engine)


def test_an_engine_as_asked_passes(engine):
    assert result(engine, CONFIG).status == "pass"


@pytest.mark.parametrize(
    ("plugins", "status", "text"),
    [
        ({"use_paged_context_fmha": False}, "fail", "use_paged_context_fmha is False, asked for enable"),
        ({"gpt_attention_plugin": None}, "differs", "gpt_attention_plugin is None, asked for auto"),
        ({"gemm_plugin": "auto"}, "differs", "gemm_plugin is 'auto', asked for disable"),
        ({"multiple_profiles": False}, "differs", "multiple_profiles"),
    ],
)
def test_what_the_builder_changed_without_a_word_is_named(engine, plugins, status, text):
    row = result(engine, changed(**plugins))
    assert row.status == status and text in row.found


def test_a_changed_limit_and_a_missing_option_are_named(engine):
    config = changed()
    config["build_config"]["max_batch_size"] = 8
    del config["pretrained_config"]["logits_dtype"]
    row = result(engine, config)
    assert row.status == "fail" and "max_batch_size is 8" in row.found and "logits_dtype is not in" in row.found


GOOD = {"passed": True, "failed": [], "mean_kl": 0.001, "greedy_agreement": 0.99}
BAD = {"passed": False, "failed": ["greedy_agreement 0.5 is below 0.75"], "mean_kl": 0.2, "greedy_agreement": 0.5}
BLIND = {"passed": False, "failed": ["mean_kl was not measured"], "mean_kl": None}


@pytest.mark.parametrize(
    ("accuracy", "must_pass", "status"),
    [(GOOD, True, "pass"), (BAD, True, "fail"), (BAD, False, "pass"), (BLIND, False, "fail"), (None, False, "fail")],
)
def test_the_gate_must_measure_and_pass_the_same_weights(engine, accuracy, must_pass, status):
    row = readback.gate(dataclasses.replace(engine, accuracy=accuracy), must_pass=must_pass)
    assert row.status == status and row.found


def test_a_gate_that_fails_for_another_reason_has_not_refused(engine, tmp_path):
    row = readback.gate_refuses(tmp_path / "nothing", tmp_path)
    assert row.status == "fail" and "no engine at" in row.found


def test_the_gate_is_forgotten_before_serving(engine):
    engine_dir.write(dataclasses.replace(engine, accuracy=BAD), engine.path)
    readback.forget_gate(engine.path)
    assert engine_dir.read(engine.path).accuracy is None
