"""Loading: what is refused in one line, and that the stand-in refuses wrong names."""

from __future__ import annotations

import importlib
import sys

import pytest

from contract.errors import EngineDirectoryError
from serving.runtimes.base import RuntimeOptions
from tests.serving.runtimes.tensorrt_llm.harness import STANDINS, forget, write_engine


def test_an_engine_of_another_version_is_refused_in_one_line(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(STANDINS))
    forget()
    module = importlib.import_module("serving.runtimes.tensorrt_llm.runtime")
    engine = write_engine(tmp_path / "old", "engine", version="1.1.0")
    with pytest.raises(EngineDirectoryError, match=r"built by TensorRT-LLM 1\.1\.0, this is 1\.2\.1"):
        module.create(engine, RuntimeOptions(), print, print)
    monkeypatch.setenv("STANDIN_TRTLLM_VERSION", "1.4")
    forget()
    with pytest.raises(EngineDirectoryError, match="no longer loads engines"):
        module.create(engine, RuntimeOptions(), print, print)
    forget()


def test_without_tensorrt_llm_one_line_says_what_to_do(tmp_path):
    forget()
    module = importlib.import_module("serving.runtimes.tensorrt_llm.runtime")
    with pytest.raises(EngineDirectoryError, match="not installed in this Python") as caught:
        module.create(write_engine(tmp_path / "e", "engine"), RuntimeOptions(), print, print)
    assert "\n" not in str(caught.value)


def test_unknown_keywords_fail_in_the_stand_in(start):
    """The stand-in is only worth something if a wrong name fails."""
    harness = start("engine")
    module = sys.modules["tensorrt_llm.sampling_params"]
    with pytest.raises(TypeError):
        module.SamplingParams(temprature=1.0)
    with pytest.raises(TypeError):
        harness.llm.generate_async(inputs=[1], sampling_params=module.SamplingParams(end_id=1), priority=0.5)
    with pytest.raises(ValueError, match="invalid argument: sampler_type"):
        type(harness.llm)(model=harness.llm.args.model, sampler_type="TRTLLMSampler")
