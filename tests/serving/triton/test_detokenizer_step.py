"""The detokenizer runs in several processes: each may hold only what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from contract.engine_dir import EngineInfo
from contract.paths import ROOT

LOAD = """
import sys, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
import serving.triton.detokenizer_step
print(*sorted({"transformers", "tokenizers", "jinja2", "asyncio", "httpx2"} & sys.modules.keys()))
"""


def test_it_loads_no_tokenizer_library() -> None:
    """They cost 31 MiB and a second."""
    done = subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


SEND = """
import os, sys, threading, types
from pathlib import Path
import numpy as np, orjson
os.sched_getaffinity = lambda _: range(16)
pb = sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
class Tensor:
    def __init__(self, name, values): self.name, self.values = name, values
    def as_numpy(self): return self.values
pb.Tensor, pb.InferenceResponse = Tensor, list
pb.get_input_tensor_by_name = lambda request, name: request.chunk

from contract import feed
from contract.ack_table import AckTable
from contract.chunks import TextOptions, pack
from contract.seal import Seal
from serving.triton import detokenizer_step, io
io.start = lambda name: None
run_dir = Path(os.environ["RUN_DIR"])
table = AckTable.create(run_dir / "ack_table", 64)
step = detokenizer_step.DetokenizerStep("detokenizer_0_2")
stuck, waits, came = threading.Event(), threading.Event(), threading.Semaphore(0)

class Request:
    def __init__(self, slot):
        self.slot, self.sent = slot, []
        words = pack(slot, 1, 1, 0, 1, 1, 0, 0, [5], options=orjson.dumps(TextOptions()))
        self.chunk = Tensor("chunk", Seal.of_run(run_dir).chunk(words)[None])
    def get_response_sender(self): return self
    def send(self, response=None, flags=0):
        self.sent.append(threading.current_thread().name)
        if self.slot == 0 and len(self.sent) == 2:  # Triton takes its time
            waits.set()
            stuck.wait()
        came.release()

requests = [Request(slot) for slot in range(6)]
step.execute(requests)
print(*sorted(path.name for path in run_dir.glob("feed.*")))
def go_on(slots):
    for slot in slots:
        writer = feed.FeedWriter(run_dir, table.reader(slot, 1))
        writer.push(feed.chunk(pack(slot, 1, 2, 0, 1, 2, 0, 0, [5])))
        writer.flush()
go_on([0])
assert waits.wait(20)
go_on([1, 2, 4, 5])
for _ in range(10):  # six first ones, and four that do not wait for the one that is stuck
    assert came.acquire(timeout=20)
for request in requests:
    print(request.slot, *request.sent[1:])
stuck.set()
"""


def test_text_of_one_process_is_sent_by_several_threads_each_with_its_own_feed(
    engine: EngineInfo, tmp_path: Path
) -> None:
    """While Triton is slow to take one response, the others of the process go on."""
    environment = os.environ | {"RUN_DIR": str(tmp_path), "ENGINE_DIR": str(engine.path)}
    command = [sys.executable, "-c", SEND]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)
    assert not done.returncode, done.stderr
    assert done.stdout.splitlines() == [
        "feed.6 feed.7 feed.8", "0 feed-6", "1 feed-7", "2 feed-8", "3", "4 feed-7", "5 feed-8",
    ]  # fmt: skip
