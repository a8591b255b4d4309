"""What the vLLM adapter puts in the place of vLLM's own gives the same: kernels interpreted, the scheduler as it is."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from contract.paths import ROOT

pytestmark = pytest.mark.oracle


def printed(module: str, **environment: str) -> Any:
    """In a process of its own: Triton and vLLM read their variables when they are imported."""
    run = subprocess.run(
        [sys.executable, "-m", f"tests.oracle.{module}"],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr + run.stdout
    return json.loads(run.stdout.splitlines()[-1])


def test_one_pass_chooses_what_a_sort_chooses():
    assert printed("candidates_reference", TRITON_INTERPRET="1") == {"rows": 36, "differing": []}


def test_decode_attention_is_attention():
    assert printed("decode_attention_reference", TRITON_INTERPRET="1") == {"batches": 9, "differing": []}


def test_keys_and_values_are_written_where_vllms_operator_writes_them():
    seen = printed("cache_write_reference", TRITON_INTERPRET="1")
    assert seen == {"caches": 4, "differing": [], "left": ["fp8_e4m3"], "kept": [True, True]}


@pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="needs vLLM 0.26 (make setup-vllm)")
def test_our_scheduler_is_vllms():
    seen = printed("scheduler_reference", VLLM_USE_V2_MODEL_RUNNER="0")
    assert (seen["steps"], seen["differing"]) == (4800, "")
    assert {"finish stop", "finish length", "guided", "preempted_req_ids", "taken back"} <= set(seen["happened"])
