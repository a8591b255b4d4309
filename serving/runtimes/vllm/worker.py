"""vLLM's GPU worker with our sampler, attention, writes to the cache and FP8 GEMMs (``releases.own_kernels``)."""

from __future__ import annotations

import os
from typing import Any

from vllm.v1.worker.gpu_worker import Worker as VllmWorker

from serving.runtimes.vllm import attention, cache_write, fp8_gemm, sampler

TRITON_CACHE = "TRITON_CACHE_DIR"


class Worker(VllmWorker):  # type: ignore[misc]
    _triton_cache: str | None = None

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        self._triton_cache = os.environ.get(TRITON_CACHE)
        fp8_gemm.install()
        cache_write.install()
        super().load_model(*args, **kwargs)
        model = self.get_model()
        sampler.install(self.model_runner)
        attention.install(model, self.vllm_config)
        fp8_gemm.unwrap_lm_head(model)
        fp8_gemm.autotune(model.modules(), self.vllm_config.scheduler_config.max_num_batched_tokens)

    def compile_or_warm_up_model(self) -> Any:
        """Keep the kernels that are compiled from here on in one place for every start.

        A start that compiles the model points Triton at a directory beside the compiled graph
        (``InductorAdaptor.initialize_cache``), one that reads the graph back does not: the second start of an engine
        compiled them all again, 50 s on an H100 host.
        https://github.com/vllm-project/vllm/blob/v0.26.0/vllm/compilation/compiler_interface.py"""
        if self._triton_cache is None:
            os.environ.pop(TRITON_CACHE, None)
        else:
            os.environ[TRITON_CACHE] = self._triton_cache
        return super().compile_or_warm_up_model()
