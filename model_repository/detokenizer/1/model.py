"""Detokenizer step: token deltas to text deltas. The work is in ``serving.detokenizer.step``."""

import logging
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from contract.ack_table import BEAT_SECONDS, AckTable
from contract.errors import InternalError, ServingError
from contract.seal import Seal
from serving.detokenizer.step import Detokenizer
from serving.detokenizer.text import TokenBytes
from serving.triton import io as triton_io
from serving.triton.settings import StepSettings

log = logging.getLogger(__name__)


class TritonPythonModel:
    def initialize(self, args):
        triton_io.start("detokenizer")
        settings = StepSettings.from_environment()
        table = TokenBytes.load(settings.engine_dir / "tokenizer.json")
        self.seal = Seal.of_run(settings.run_dir)
        self.ack_table = settings.ack_table
        self.detokenizer = Detokenizer(table, lambda: AckTable(self.ack_table))
        threading.Thread(target=self.beat, daemon=True).start()
        triton_io.ready()

    def beat(self):
        while not self.ack_table.exists():  # made by the engine step, which loads beside this one
            time.sleep(BEAT_SECONDS)
        while True:
            self.detokenizer.beat()
            time.sleep(BEAT_SECONDS)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        """Each request is answered by itself: an error never fails the batch, which holds other people's chunks."""
        try:
            return triton_io.outputs(self.detokenizer.process(triton_io.chunk_words(request, self.seal)))
        except ServingError as error:
            return triton_io.failed(error)
        except Exception:
            log.exception("a chunk could not be read")
            return triton_io.failed(InternalError("detokenizer: the chunk could not be read; see the server's log"))
