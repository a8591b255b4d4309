from . import llm_args
from .llm_args import CudaGraphConfig, KvCacheConfig, SchedulerConfig

__all__ = ["CudaGraphConfig", "KvCacheConfig", "SchedulerConfig", "llm_args"]
