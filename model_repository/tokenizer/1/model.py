"""Tokenizer step: messages or text to token ids. The work is in ``serving.triton.tokenizer_step``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from contract import engine_dir
from contract.seal import Seal
from serving import tracing
from serving.tokenizer.prompt import PromptBuilder
from serving.triton import io as triton_io
from serving.triton.settings import StepSettings
from serving.triton.tokenizer_step import TokenizerStep


class TritonPythonModel:
    def initialize(self, args):
        triton_io.start("tokenizer")
        settings = StepSettings.from_environment()
        builder = PromptBuilder(engine_dir.read(settings.engine_dir))
        self.step = TokenizerStep(builder, Seal.of_run(settings.run_dir), tracing.load("tokenizer"))
        triton_io.ready()

    def execute(self, requests):
        self.step.execute(requests)

    def finalize(self):
        self.step.close()
