"""Streams as other servers write them; each has ten tokens, in the fields that its server really sends.

vLLM 0.32 (``vllm/entrypoints/openai/chat_completion/serving.py``), llama.cpp (``tools/server/server-task.cpp``), Ollama
(``openai/openai.go``), DeepSeek (api-docs.deepseek.com), LiteLLM's and other proxies' zeros.
"""

from __future__ import annotations

import asyncio

from tests.loadtest.answer import Answer, chunk, paced

LATE = 0.03  # seconds between the last token and what ends the answer


async def vllm(a: Answer) -> None:
    """A role with a usage of 0, the count with each chunk, and an end-of-text token that brings no text."""
    await a.begin()
    await a.delta(0, usage=True, role="assistant", content="", reasoning_content=None)
    async for k in paced(10):
        last = k == 9
        await a.delta(1, usage=True, content="" if last else "word ", finish="stop" if last else None)
    await a.finish()


async def llama_cpp(a: Answer) -> None:
    """No text in the first chunk, the reason in an empty delta, then the usage with timings."""
    await a.begin()
    await a.delta(0, role="assistant", content=None)
    async for _ in paced(10):
        await a.delta(1, content="word ")
    await asyncio.sleep(LATE)
    await a.raw(a.event(chunk({}, "length")))
    await a.finish()


async def ollama(a: Answer) -> None:
    """A role with each chunk, two tokens in some; the reason with an empty text."""
    await a.begin()
    for tokens in (2, 1, 3, 4):
        await asyncio.sleep(0.02)
        await a.delta(tokens, role="assistant", content="word " * tokens)
    await asyncio.sleep(LATE)
    await a.delta(0, role="assistant", content="", finish="stop")
    await a.finish()


async def zeros(a: Answer) -> None:
    """Each chunk has a usage, and it is 0 until the last."""
    await a.begin()
    async for _ in paced(10):
        await a.raw(a.event(chunk({"content": "word "}, None, 0)), 1)
    await a.finish()


async def prompt_only(a: Answer) -> None:
    """Each chunk's usage tells of the prompt alone."""
    await a.begin()
    async for _ in paced(10):
        await a.raw(a.event(chunk({"content": "word "}) | {"usage": {"prompt_tokens": 7}}), 1)
    await a.finish()


async def deepseek(a: Answer) -> None:
    """The total comes with the reason, in a chunk with a choice, some time after the last token."""
    await a.begin()
    await a.delta(0, role="assistant", content="")
    for _ in range(5):
        await asyncio.sleep(0.02)
        await a.raw(a.event(chunk({"content": "two words "}) | {"usage": None}), 2)
    await asyncio.sleep(LATE)
    await a.raw(a.event(chunk({"content": ""}, "stop", a.tokens)))
    await a.finish(usage=False)


async def mistral(a: Answer) -> None:
    """The content is a list of parts, of thoughts first."""
    await a.begin()
    async for k in paced(10):
        said = {"type": "text", "text": "word "}
        await a.delta(1, content=[{"type": "thinking", "thinking": [said]} if k < 5 else said])
    await a.finish()


async def characters(a: Answer) -> None:
    """A chunk a character: four times as many as there are tokens, which only the usage tells."""
    await a.begin()
    async for k in paced(40):
        await a.raw(a.event(chunk({"content": "w"})), 1)
        a.sent[-1] = (*a.sent[-1][:2], 1 if k % 4 == 0 else 0)
    await a.finish()


async def error_object(a: Answer) -> None:
    """vLLM's errors in a stream until 0.10."""
    await a.begin()
    async for _ in paced(3):
        await a.delta(1, content="word ")
    await a.raw(a.event({"object": "error", "message": "the engine is gone", "code": 503}))
    await a.finish(usage=False)
