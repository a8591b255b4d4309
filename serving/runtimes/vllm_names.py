"""The names of vLLM 0.24 that ``serving.runtimes.vllm`` uses; imported only after the version is checked."""

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.renderers import renderer_from_config
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.executor import Executor

__all__ = [
    "AsyncEngineArgs",
    "EngineCoreClient",
    "EngineCoreOutput",
    "EngineCoreOutputs",
    "EngineDeadError",
    "Executor",
    "FinishReason",
    "InputProcessor",
    "LoRARequest",
    "SamplingParams",
    "StructuredOutputsParams",
    "UsageContext",
    "renderer_from_config",
    "tokens_input",
]
