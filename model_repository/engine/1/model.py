"""Engine step: token ids to token deltas, decoupled. The work is in ``serving.triton.engine_step``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from serving.triton import io as triton_io
from serving.triton.engine_step import EngineStep


class TritonPythonModel:
    def initialize(self, args):
        triton_io.start("engine")
        self.step = EngineStep()
        triton_io.ready()

    def execute(self, requests):
        self.step.execute(requests)

    def is_ready(self):
        """Feeds /v2/models/engine/ready from Triton 26.04 on."""
        return self.step.ready

    def finalize(self):
        self.step.close()
