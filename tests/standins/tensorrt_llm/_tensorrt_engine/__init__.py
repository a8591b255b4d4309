from .._surface import VERSION

if VERSION != "1.2.1":
    raise ImportError("cannot import name 'LLM' from 'tensorrt_llm._tensorrt_engine'")
from .._llm import TrtLLM as LLM

__all__ = ["LLM"]
