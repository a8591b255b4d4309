"""Many answers at once over one connection, 16 at a time.   .venv/bin/python examples/asyncio_fanout.py [HOST:PORT]

``make setup`` makes .venv. With ``pip install .`` in a Python of your own: ``from qwen_triton_client import …``.
"""

import asyncio
import sys

from client import AsyncClient, ClientError, Options

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
prompts = [[{"role": "user", "content": f"Name {n} European cities."}] for n in range(1, 33)]


async def main() -> None:
    async with AsyncClient(address) as qwen:
        answers = await qwen.batch(prompts, Options(max_tokens=16), concurrency=16)
    for n, answer in enumerate(answers, 1):
        text = f"failed: {answer}" if isinstance(answer, ClientError) else repr(answer.text[:60])
        print(f"{n:2} {text}")


asyncio.run(main())
