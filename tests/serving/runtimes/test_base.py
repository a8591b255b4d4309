"""What the runtimes say that they honour are names of the table, so that admission can ask for them."""

from __future__ import annotations

from pathlib import Path

from contract.fields import FIELDS
from serving.runtimes import simulated
from serving.runtimes.base import CAPABILITIES
from serving.runtimes.openvino import runtime as openvino
from serving.runtimes.tensorrt_llm import args as tensorrt_llm
from serving.runtimes.vllm import args as vllm
from tests.serving.runtimes.vllm.cases import engine


def test_runtimes_list_known_capabilities_only() -> None:
    listed = simulated.HONOURED | openvino.HONOURED | vllm.HONOURED | tensorrt_llm.PENALTIES | tensorrt_llm.LOGPROBS
    assert listed <= CAPABILITIES


def test_what_the_cpu_engine_and_vllm_lack(tmp_path: Path) -> None:
    assert CAPABILITIES - {"lora"} == openvino.HONOURED
    assert vllm.capabilities(engine(tmp_path)) == CAPABILITIES - {"lora", "guided_decoding_complete"}


def test_every_setting_is_honoured_by_some_runtime() -> None:
    assert {field.capability for field in FIELDS if field.capability} <= openvino.HONOURED | {"lora"}
