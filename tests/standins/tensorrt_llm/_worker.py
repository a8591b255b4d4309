"""A worker process at the other end of a real ZMQ PAIR socket, as TensorRT-LLM's executor has one.

Sending is blocking: once the worker has been killed, the sender waits for ever (tensorrt_llm/executor/ipc.py)."""

import subprocess
import sys
import tempfile

CODE = """
import sys, zmq
pair = zmq.Context().socket(zmq.PAIR)
pair.connect(sys.argv[1])
pair.send(b"ready")
while True:
    pair.recv()
"""


class Worker:
    def __init__(self):
        import zmq

        self._sending = False
        self._folder = tempfile.TemporaryDirectory()
        self._context = zmq.Context()
        self._pair = self._context.socket(zmq.PAIR)
        self._pair.setsockopt(zmq.LINGER, 0)
        address = f"ipc://{self._folder.name}/pair"
        self._pair.bind(address)
        self.process = subprocess.Popen([sys.executable, "-c", CODE, address])
        assert self._pair.recv() == b"ready"

    def send(self, text):
        import zmq

        self._sending = True
        try:
            self._pair.send(text.encode())
        except zmq.ContextTerminated:  # only a test's release() comes here
            self._pair.close()
            return
        self._sending = False

    def release(self):
        """Let a blocked sender go, which the real thing never does: the test process must be able to end."""
        self.process.kill()
        self.process.wait()
        if not self._sending:
            self._pair.close()
        self._context.term()
        self._folder.cleanup()
