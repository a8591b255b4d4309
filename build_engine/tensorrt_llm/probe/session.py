"""One loaded engine through the runtime that serves it: requests, their deltas, its death."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import Tokenizer

from contract.engine_dir import EngineInfo
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest, RuntimeOptions, SequenceDelta
from serving.runtimes.tensorrt_llm import params
from serving.runtimes.tensorrt_llm import runtime as tensorrt_llm

PROMPT = tuple(range(100, 116))
ANSWER_S = 60.0


class Session:
    """``scoring`` loads it as the accuracy gate does."""

    def __init__(self, engine: EngineInfo, *, scoring: bool = False) -> None:
        self.changed, self.deltas, self.death = threading.Condition(), dict[int, list[SequenceDelta]](), ""
        self.engine, self._next = engine, 0
        self.runtime = tensorrt_llm.create(engine, RuntimeOptions(), self._step, self._died, scoring=scoring)

    def _step(self, deltas: list[SequenceDelta]) -> None:
        with self.changed:
            for delta in deltas:
                self.deltas[delta.sequence_id].append(delta)
            self.changed.notify_all()

    def _died(self, reason: str) -> None:
        with self.changed:
            self.death = reason or "no reason"
            self.changed.notify_all()

    def close(self) -> None:
        self.runtime.close()

    def start(self, prompt: Sequence[int] = PROMPT, **sampling: Any) -> int:
        self._next += 1
        self.deltas[self._next] = []
        wanted = Sampling(**({"max_tokens": 16, "temperature": 0.0, "ignore_eos": True} | sampling))
        self.runtime.submit(EngineRequest(self._next, list(prompt), wanted))
        return self._next

    def until(self, condition: Callable[[], object], seconds: float) -> bool:
        with self.changed:
            return bool(self.changed.wait_for(condition, seconds))

    def tokens(self, number: int) -> list[int]:
        return [token for delta in self.deltas[number] for token in delta.token_ids]

    def last(self, number: int) -> SequenceDelta | None:
        return next((delta for delta in self.deltas[number] if delta.finish_reason), None)

    def answer(self, prompt: Sequence[int] = PROMPT, **sampling: Any) -> tuple[list[int], str]:
        """Tokens and how it ended, ``error: …`` or ``None`` included."""
        number = self.start(prompt, **sampling)
        self.until(lambda: self.last(number) or self.death, ANSWER_S)
        last = self.last(number)
        return self.tokens(number), f"error: {last.error}" if last and last.error else str(last and last.finish_reason)

    def text(self, tokens: Sequence[int]) -> str:
        tokenizer: Tokenizer = Tokenizer.from_file(str(self.engine.path / "tokenizer.json"))
        return str(tokenizer.decode(list(tokens)))

    def raw_ids(self, end: int) -> list[int]:
        """The ids as TensorRT-LLM itself gives them, for an answer that the token ``end`` ends."""
        package, llm = self.runtime.loaded.package, self.runtime.loaded.llm
        sampling = Sampling(max_tokens=16, temperature=0.0, stop_token_ids=(end,))

        async def read() -> list[int]:
            asked = params.build(package.sampling_params, sampling, end)
            ids: list[int] = []
            async for item in llm.generate_async(inputs=list(PROMPT), sampling_params=asked, streaming=True):
                ids = list(item.outputs[0].token_ids)
            return ids

        return asyncio.run(asyncio.wait_for(read(), ANSWER_S))

    def statistics(self) -> dict[str, Any]:
        """The newest iteration record; empty when there is none."""
        records = list(self.runtime.loaded.llm.get_stats(timeout=2.0))
        return dict(records[-1]) if records else {}
