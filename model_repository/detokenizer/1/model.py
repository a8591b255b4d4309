"""Detokenizer step: token deltas to text deltas, decoupled. The work is in ``serving.triton.detokenizer_step``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from serving.triton import io as triton_io
from serving.triton.detokenizer_step import DetokenizerStep


class TritonPythonModel:
    def initialize(self, args):
        self.step = DetokenizerStep(args["model_instance_name"])
        triton_io.ready()

    def execute(self, requests):
        self.step.execute(requests)
