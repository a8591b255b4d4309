"""The sampler's GPU kernels, interpreted on the CPU, choose what a sort of all logits chooses."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from contract.paths import ROOT

pytestmark = pytest.mark.oracle


def test_one_pass_chooses_what_a_sort_chooses():
    run = subprocess.run(  # its own process: Triton reads the variable when it is imported
        [sys.executable, "-m", "tests.oracle.candidates_reference"],
        cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {"rows": 36, "differing": []}
