"""Clients of the model ``qwen``: blocking and asyncio, over Triton's gRPC or the OpenAI gateway.

    from client import Client, Options

    with Client("127.0.0.1:8001") as qwen:
        for chunk in qwen.stream([{"role": "user", "content": "Hi"}], Options(max_tokens=64)):
            print(chunk.text, end="", flush=True)

Exceptions: ``client.errors``. From a shell: ``python -m client "Hi"``.
"""

import contract.program

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read at import; else it logs failed handshakes on its own

from client._clients import AsyncClient, AsyncStream, Client, Stream
from client.credentials import Tls
from client.errors import ClientError
from client.types import NO_RETRY, Completion, Options, Prompt, Result, Retry, StreamChunk, Timeouts

__all__ = [
    "NO_RETRY", "AsyncClient", "AsyncStream", "Client", "ClientError", "Completion", "Options", "Prompt", "Result",
    "Retry", "Stream", "StreamChunk", "Timeouts", "Tls",
]  # fmt: skip
