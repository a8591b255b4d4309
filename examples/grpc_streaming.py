"""Stream one chat answer over gRPC, and time it.   .venv/bin/python examples/grpc_streaming.py [HOST:PORT]

``make setup`` makes .venv. With ``pip install .`` in a Python of your own: ``from qwen_triton_client import …``.
"""

import sys
import time

from client import Client, Options

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
messages = [{"role": "user", "content": "Why is the sky blue?"}]

with Client(address) as qwen:
    sent, first = time.perf_counter(), 0.0
    for chunk in qwen.stream(messages, Options(max_tokens=32, temperature=0.7, seed=1)):
        first = first or time.perf_counter()
        print(chunk.text, end="", flush=True)
    ttft = (first - sent) * 1000
    print(f"\n[TTFT {ttft:.0f} ms, {chunk.completion_tokens} tokens, finish_reason={chunk.finish_reason}]")
