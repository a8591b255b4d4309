"""Tokenizer step: messages or text to token ids. The work is in ``serving.tokenizer.prompt``."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from contract import engine_dir
from contract.errors import ServingError
from serving.tokenizer.prompt import PromptBuilder
from serving.triton import io as triton_io


class TritonPythonModel:
    def initialize(self, args):
        triton_io.start("tokenizer")
        self.builder = PromptBuilder(engine_dir.read(Path(os.environ["ENGINE_DIR"])))

    def execute(self, requests):
        inputs = [self.read(request) for request in requests]
        good = [item for item in inputs if not isinstance(item, ServingError)]
        results = iter(self.builder.encode(good))
        return [self.answer(item if isinstance(item, ServingError) else next(results)) for item in inputs]

    @staticmethod
    def read(request):
        try:
            return triton_io.inputs(request)
        except ServingError as error:
            return error

    @staticmethod
    def answer(result):
        if isinstance(result, ServingError):
            return triton_io.failed(result)
        return triton_io.encoded(result.ids, result.job.to_json())
