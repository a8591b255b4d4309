"""vLLM's own server as a contender: as installed, with its frontend in Rust, and with fewer and larger messages."""

from __future__ import annotations

import json
import sys
from importlib import metadata

from contract.versions import version_tuple
from loadtest.bench.gpu.contenders import OpenAIServer
from serving.runtimes.vllm import args as vllm_args
from serving.runtimes.vllm import releases

STREAM_INTERVAL = 8  # tokens


class VllmServe(OpenAIServer):
    """vLLM's own server with our engine's limits."""

    label = "vllm-serve"

    def arguments(self) -> list[str]:
        engine = json.loads((self.setup.engine / "engine.json").read_text())
        limits = engine["limits"]
        command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(self.setup.engine)]
        command += ["--host", "127.0.0.1", "--port", str(self.setup.port), "--served-model-name", "qwen"]
        command += ["--max-num-seqs", str(self.setup.max_streams), "--max-model-len", str(limits["max_seq_len"])]
        if not self.setup.vllm_steps:
            command += ["--max-num-batched-tokens", str(limits["max_num_tokens"])]
        command += ["--kv-cache-memory-bytes", str(self.setup.kv_bytes), "--generation-config", "vllm"]
        command += ["--gpu-memory-utilization", str(vllm_args.NO_FRACTION)]
        gpus = (engine.get("gpu") or {}).get("tensor_parallel", 1)
        command += ["--tensor-parallel-size", str(gpus)]
        self.environment = releases.several_gpus(version_tuple(metadata.version("vllm")), gpus)
        quantized = "quantization_config" in json.loads((self.setup.engine / "config.json").read_text())
        command += ["--load-format", "dummy"] if not any(self.setup.engine.glob("*.safetensors")) else []
        return command + (["--quantization", "fp8"] if self.precision.startswith("fp8") and not quantized else [])


class VllmServeRust(VllmServe):
    """The same with vLLM's HTTP server in Rust, off as it comes. It takes no --generation-config."""

    label = "vllm-serve-rust"

    def arguments(self) -> list[str]:
        command = super().arguments()
        at = command.index("--generation-config")
        del command[at : at + 2]
        self.environment = self.environment | {"VLLM_USE_RUST_FRONTEND": "1"}
        return command


class VllmServeInterval(VllmServe):
    """The same, sending a message for every ``STREAM_INTERVAL`` tokens: fewer messages, coarser text."""

    label = "vllm-serve-interval"

    def arguments(self) -> list[str]:
        return [*super().arguments(), "--stream-interval", str(STREAM_INTERVAL)]
