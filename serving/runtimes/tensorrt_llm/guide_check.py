"""Does this installation follow a guide? Tested once at load, so that guides are either enforced or refused.

That guided decoding works with ``TRTLLMSampler`` on the PyTorch backend of 1.2 is known from NVIDIA's table and sources
only; we have not run it (docs/tensorrt_llm_facts.md, "LLM API"). An ignored guide would pass as an answer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from tokenizers import Tokenizer

from contract import engine_dir
from contract.engine_dir import EngineInfo
from contract.errors import EngineDirectoryError
from contract.sampling import Guide, Sampling
from serving.runtimes.tensorrt_llm import params
from serving.runtimes.tensorrt_llm.loaded import LoadedLlm

WORD = "zqxjkv"  # no model answers this unless it must
ANSWER_S = 120.0  # the first request of all: kernels are tuned, a grammar is compiled
log = logging.getLogger(__name__)


def keeps_to_guides(loaded: LoadedLlm, engine: EngineInfo) -> bool:
    """Whether a request that allows only ``WORD`` is answered with it. Raises ``EngineDirectoryError`` when the request
    kills the engine."""
    path = engine.path / "tokenizer.json"
    if not path.is_file():
        raise EngineDirectoryError(f"engine: {path} is missing: rebuild with `make engine`")
    ends = engine_dir.end_ids(engine.path)
    sampling = Sampling(16, temperature=0.0, stop_token_ids=ends, guide=Guide("regex", WORD))
    try:
        ids = asyncio.run(asyncio.wait_for(_answer(loaded, sampling, ends), ANSWER_S))
    except (loaded.package.request_error, ValueError, TypeError, TimeoutError, asyncio.TimeoutError) as error:
        answer = f"{type(error).__name__}: {error}"
    except Exception as error:  # anything else means that TensorRT-LLM has shut itself down
        raise EngineDirectoryError(f"engine: TensorRT-LLM failed at a guided request ({error})") from error
    else:
        answer = str(Tokenizer.from_file(str(path)).decode([token for token in ids if token not in ends]))
    if answer == WORD:
        return True
    log.warning("TensorRT-LLM %s was asked for %r by a guide and answered %r: JSON schema, regex and grammar are "
                "refused; `make probe` has the details", loaded.package.version, WORD, answer[:200])  # fmt: skip
    return False


async def _answer(loaded: LoadedLlm, sampling: Sampling, ends: tuple[int, ...]) -> list[int]:
    wanted = params.build(loaded.package.sampling_params, sampling, ends[0])
    result: Any = loaded.llm.generate_async(inputs=[ends[-1]], sampling_params=wanted, streaming=True)
    ids: list[int] = []
    async for item in result:
        ids = list(item.outputs[0].token_ids)
        if item.finished:
            break
    return ids
