"""What the adapter does about a release's own faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

MESSAGES, KIB = 100_000, 1024
# A reader of vLLM's queues in a process of its own, whose memory nothing else has freed for use again: KiB it grew by.
READER = f"""
import sys, types
import zmq
from serving.runtimes.vllm import releases

class SpinCondition:
    def __init__(self, context, address):
        self.local_notify_socket = context.socket(zmq.SUB)
        self.local_notify_socket.setsockopt(zmq.CONFLATE, 1)
        self.local_notify_socket.setsockopt_string(zmq.SUBSCRIBE, "")
        self.local_notify_socket.connect(address)
        self.reads = 0

    def record_read(self):
        self.reads += 1

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4

broadcast = types.ModuleType("vllm.distributed.device_communicators.shm_broadcast")
broadcast.SpinCondition = SpinCondition
for name in ("vllm", "vllm.distributed", "vllm.distributed.device_communicators"):
    sys.modules[name] = types.ModuleType(name)
sys.modules[broadcast.__name__] = broadcast
sys.modules["vllm"].__version__ = sys.argv[1]
releases.bound_wake_ups()

with zmq.Context() as context, context.socket(zmq.PUB) as writer:
    writer.bind("inproc://wake-up")
    reader = SpinCondition(context, "inproc://wake-up")
    with reader.local_notify_socket:
        writer.send(b"0")
        before = resident()
        for _ in range({MESSAGES}):
            writer.send(b"0")
            reader.record_read()
        print(resident() - before)
        assert reader.local_notify_socket.poll(0) and reader.reads == {MESSAGES}
"""


@pytest.mark.parametrize("release", ["0.24.0", "0.26.0", "0.32.0"])
def test_a_busy_reader_of_vllms_queues_keeps_no_wake_ups(release):
    assert grown(release) < MESSAGES * 4 // KIB


def test_from_033_on_vllm_takes_them_itself():
    assert grown("0.33.0") > MESSAGES * 32 // KIB  # the stand-in, which nobody mends


def grown(release: str) -> int:
    reader = subprocess.run([sys.executable, "-c", READER, release], capture_output=True, text=True, timeout=60)
    assert not reader.returncode, reader.stderr
    return int(reader.stdout)
