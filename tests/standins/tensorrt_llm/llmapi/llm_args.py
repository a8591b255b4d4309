from typing import Any

from pydantic import ConfigDict, create_model

from .._surface import default, section


def _make(name):
    fields = {}
    for field, info in section(name).items():
        value = ... if info["default"] == "required" else default(info["default"])
        fields[field] = (Any, value)
    return create_model(name, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields)


KvCacheConfig = _make("KvCacheConfig")
SchedulerConfig = _make("SchedulerConfig")
CudaGraphConfig = _make("CudaGraphConfig")
ExtendedRuntimePerfKnobConfig = _make("ExtendedRuntimePerfKnobConfig")
TorchLlmArgs = _make("TorchLlmArgs")
if section("TrtLlmArgs"):
    TrtLlmArgs = _make("TrtLlmArgs")
