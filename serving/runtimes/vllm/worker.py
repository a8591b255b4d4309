"""vLLM's GPU worker with our sampler, attention and choice of FP8 kernels (``releases.own_kernels`` says where)."""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.gpu_worker import Worker as VllmWorker

from serving.runtimes.vllm import attention, products, sampler


class Worker(VllmWorker):  # type: ignore[misc]
    def load_model(self, *args: Any, **kwargs: Any) -> None:
        products.install()
        super().load_model(*args, **kwargs)
        model = self.get_model()
        sampler.install(self.model_runner)
        attention.install(model, self.vllm_config)
        products.shorten_output_layer(model)
        products.measure(model.modules(), self.vllm_config.scheduler_config.max_num_batched_tokens)
