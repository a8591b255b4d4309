"""Everything that uses a name of vLLM; ``runtime.py`` imports this module after it has checked the release.

Token ids go in as an ``EngineCoreRequest`` and come out as one ``EngineCoreOutputs`` message per engine step. The
engine core is a child process (and one per GPU with tensor parallelism); the client is the one vLLM's ``LLM`` uses.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.renderers import renderer_from_config
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.executor import Executor

from contract import engine_dir
from contract.engine_dir import EngineInfo
from contract.errors import EngineDirectoryError, EngineUnavailable, InvalidRequest
from contract.sampling import Guide
from serving.runtimes import guard
from serving.runtimes.base import EngineRequest, RuntimeOptions
from serving.runtimes.vllm import args as vllm_args
from serving.runtimes.vllm import releases

SHUTDOWN_S = 10.0
log = logging.getLogger(__name__)


class Core:
    """One engine core. The constructor blocks until it is ready. ``send`` and ``abort`` allow one caller at a time,
    ``prepare`` any number."""

    def __init__(self, engine: EngineInfo, options: RuntimeOptions) -> None:
        began = time.monotonic()
        config = _config(engine, options)
        configured = time.monotonic()
        self._inputs = InputProcessor(config, renderer_from_config(config))
        try:
            self._client = EngineCoreClient.make_client(
                multiprocess_mode=True,
                asyncio_mode=False,
                vllm_config=config,
                executor_class=Executor.get_class(config),
                log_stats=True,
            )
        except RuntimeError as error:
            raise EngineUnavailable(f"engine: vLLM did not start ({error}); its own lines above say why") from error
        log.info(
            "vLLM started in %.1f s: configuration %.1f, engine core (load, compile, capture graphs) %.1f",
            time.monotonic() - began, configured - began, time.monotonic() - configured,
        )  # fmt: skip
        processes = self._client.resources.engine_manager.processes
        self._guard = guard.start([process.pid for process in processes], sys.executable)
        self._tasks = self._client.get_supported_tasks()
        self._end_ids = engine_dir.end_ids(engine.path)
        self._loras = {path.name: (number, path) for number, path in enumerate(vllm_args.lora_adapters(engine.path), 1)}
        self.outputs: Any = (
            self._client.outputs_queue
        )  # queue.Queue of EngineCoreOutputs or an exception, by vLLM's thread
        self.lacking = releases.lacking(releases.check())
        self.max_model_len = int(config.model_config.max_model_len)
        self.vocab_size = int(config.model_config.get_vocab_size())
        self.kv_block_tokens = int(config.cache_config.block_size)
        self.kv_blocks = int(config.cache_config.num_gpu_blocks) - 1  # the null block is never given out

    @property
    def dead(self) -> bool:
        """Set by vLLM's monitor thread when a child process is gone; a killed child leaves no other trace."""
        return bool(self._client.resources.engine_dead)

    def prepare(self, request_id: str, request: EngineRequest) -> tuple[Any, frozenset[int]]:
        """An ``EngineCoreRequest`` and the ids that end it. Raises ``InvalidRequest`` for what vLLM refuses."""
        sampling = request.sampling
        try:
            args = vllm_args.sampling_args(sampling, self._end_ids, seeded=request.seeded)
            params = SamplingParams(**args, structured_outputs=_guide(sampling.guide))
            if sampling.bad_words:
                params._bad_words_token_ids = [list(word) for word in sampling.bad_words]
            prepared = self._inputs.process_inputs(
                request_id,
                tokens_input(list(request.input_ids), cache_salt=request.cache_salt or None),
                params,
                self._tasks,
                lora_request=self._lora(request.lora_name),
                priority=-request.priority,  # vLLM: lower is sooner
            )
        except (
            VLLMValidationError,
            ValueError,
            TypeError,
            KeyError,
        ) as error:  # from 0.28 on the first is not a ValueError
            field = getattr(error, "parameter", None) or ("guided_decoding_guide" if sampling.guide else "request")
            raise InvalidRequest(str(field), " ".join(str(error).split())) from error
        prepared.external_req_id = request_id
        return prepared, frozenset(args["stop_token_ids"])

    def send(self, prepared: Any) -> None:
        self._client.add_request(prepared)

    def abort(self, request_id: str) -> None:
        """vLLM answers nothing to an abort, so the last output is queued here, in order with the real ones."""
        self._client.abort_requests([request_id])
        output = EngineCoreOutput(request_id, [], finish_reason=FinishReason.ABORT)
        self.outputs.put_nowait(EngineCoreOutputs(outputs=[output]))

    def shutdown(self) -> None:
        """Ends the child processes: SIGTERM, then SIGKILL after ``SHUTDOWN_S``."""
        try:
            self._client.shutdown(timeout=SHUTDOWN_S)
        finally:
            guard.stop(self._guard)

    def _lora(self, name: str) -> LoRARequest | None:
        if not name:
            return None
        if name not in self._loras:
            raise InvalidRequest("lora_name", f"{name!r} is not loaded; use one of {', '.join(sorted(self._loras))}")
        number, path = self._loras[name]
        return LoRARequest(name, number, str(path))


def _config(engine: EngineInfo, options: RuntimeOptions) -> Any:
    release = releases.check()
    args = releases.own_kernels(release) | releases.processes() | vllm_args.engine_args(engine, options)
    try:
        config = AsyncEngineArgs(**args).create_engine_config(UsageContext.OPENAI_API_SERVER)
    except (TypeError, ValueError) as error:
        own = f" (its runtime.options: {', '.join(engine.runtime.options)})" if engine.runtime.options else ""
        reason = " ".join(str(error).split())
        raise EngineDirectoryError(
            f"vLLM refuses the engine {engine.path}{own}: {reason}; rebuild with `make engine RUNTIME=vllm`"
        ) from error
    scheduling = config.scheduler_config
    if release[:2] == releases.OWN_SCHEDULER_FOR and scheduling.async_scheduling and scheduling.scheduler_cls is None:
        scheduling.scheduler_cls = releases.OWN_SCHEDULER  # set here: only now is it known which one vLLM would take
    if "structured_outputs_config" not in args:
        # Free whitespace lets a model fill its answer with blanks. As an argument vLLM takes this only beside a fixed
        # backend, but a fixed one refuses schemas that the other knows; both read the field.
        config.structured_outputs_config.disable_any_whitespace = True
    return config


def _guide(guide: Guide | None) -> StructuredOutputsParams | None:
    return StructuredOutputsParams(**vllm_args.guide_args(guide)) if guide else None
