"""vLLM's GPU worker with our sampler, decode attention and FP8 GEMMs (``releases.own_kernels`` says when)."""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.gpu_worker import Worker as VllmWorker

from serving.runtimes.vllm import attention, fp8_gemm, sampler


class Worker(VllmWorker):  # type: ignore[misc]
    def load_model(self, *args: Any, **kwargs: Any) -> None:
        fp8_gemm.install()
        super().load_model(*args, **kwargs)
        model = self.get_model()
        sampler.install(self.model_runner)
        attention.install(model, self.vllm_config)
        fp8_gemm.unwrap_lm_head(model)
        fp8_gemm.autotune(model.modules(), self.vllm_config.scheduler_config.max_num_batched_tokens)
