"""SmolLM2-135M-Instruct: ``transformers``' model of the GGUF file, and the FP32 engine built from the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from build_engine import smollm2
from build_engine.openvino import build as openvino_build
from build_engine.spec import SMOLLM2, BuildSpec


@pytest.fixture(scope="session")
def reference() -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    path = smollm2.cached()
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def engine_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return openvino_build.build(BuildSpec(SMOLLM2, "fp32", "openvino", tmp_path_factory.mktemp("smollm2") / "fp32"))
