"""A stand-in for TensorRT-LLM: names, signatures and defaults from tests/data/tensorrt_llm_surface.json, behaviour as
docs/tensorrt_llm_facts.md describes it (one mutable result object, deltas on
take, hang after an error, cancelled as a last item).

``STANDIN_TRTLLM_VERSION`` picks 1.2.1 (default) or 1.4. ``tensorrt_llm.control`` scripts what happens.
"""

from . import control, llmapi, sampling_params
from ._llm import TorchLLM as LLM
from ._surface import VERSION as __version__
from .sampling_params import SamplingParams

__all__ = ["LLM", "SamplingParams", "__version__", "control", "llmapi", "sampling_params"]
