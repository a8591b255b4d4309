"""A dispatcher between a fake runtime and fake sinks, with its own thread."""

from __future__ import annotations

from dataclasses import dataclass, replace

from contract.ack_table import AckTable
from contract.chunks import Job
from contract.sampling import Sampling
from serving.streaming.dispatcher import Dispatcher
from tests.serving.fakes import FakeDetokenizer, FakeRuntime, FakeSink

STREAM = Job(Sampling(max_tokens=100, seed=7))
AT_ONCE = replace(STREAM, stream=False)
CANCEL = Job(Sampling(max_tokens=1), cancel=True)
QUEUE = 16


@dataclass
class Rig:
    dispatcher: Dispatcher
    runtime: FakeRuntime
    ack_table: AckTable
    detokenizer: FakeDetokenizer

    def open(self, job: Job = STREAM, request_id: str = "", follow: bool = True) -> FakeSink:
        """``follow``: the detokenizer acknowledges what the sink gets."""
        sink = self.detokenizer.follow(FakeSink()) if follow else FakeSink()
        self.dispatcher.admit(request_id, [1, 2, 3], job, sink)
        return sink

    def is_free(self) -> bool:
        return len(self.dispatcher.registry.sequences) == 0 and not self.runtime.submitted
