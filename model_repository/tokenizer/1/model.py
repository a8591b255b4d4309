"""Tokenizer step: messages or text to token ids. The work is in ``serving.prompt``."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from serving import engine_dir, triton_io
from serving.errors import ServingError
from serving.prompt import PromptBuilder


class TritonPythonModel:
    def initialize(self, args):
        triton_io.start("tokenizer")
        self.builder = PromptBuilder(engine_dir.read(Path(os.environ["ENGINE_DIR"])))

    def execute(self, requests):
        fields = [self.read(request) for request in requests]
        good = [item for item in fields if not isinstance(item, ServingError)]
        results = iter(self.builder.encode(good))
        return [self.answer(item if isinstance(item, ServingError) else next(results)) for item in fields]

    @staticmethod
    def read(request):
        try:
            return triton_io.fields(request)
        except ServingError as error:
            return error

    @staticmethod
    def answer(result):
        if isinstance(result, ServingError):
            return triton_io.failed(result)
        return triton_io.encoded(result.ids, result.job.to_json())
