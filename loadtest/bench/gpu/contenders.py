"""What is compared: each can be started, asked for one run at N streams, and stopped."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.paths import ROOT
from loadtest.bench.gpu import client, samples
from loadtest.bench.gpu.client import Load
from loadtest.bench.gpu.prompts import PromptSet
from loadtest.bench.gpu.samples import summarize
from loadtest.bench.process import BenchProcess
from loadtest.errors import LoadtestError

START_S = 420.0
WEIGHTS = re.compile(r"Model loading took ([\d.]+) GiB")


@dataclass(frozen=True, slots=True)
class Setup:
    """``port``: the first of five consecutive free ones. ``kv_bytes``: KV cache of each engine."""

    engine: Path
    port: int
    kv_bytes: int
    max_tokens: int
    max_streams: int
    logs: Path
    vllm_client: bool = False  # measure OpenAI servers with ``vllm bench serve``
    vllm_steps: bool = False  # leave the tokens per step of `vllm serve` to vLLM


class Contender(BenchProcess):
    """One way to serve, in a process of its own. ``run`` returns ``samples.summarize``'s dictionary."""

    label = ""
    seed_shift = 0
    stop_signal = signal.SIGINT  # what vLLM's server ends on in order

    def __init__(self, setup: Setup, precision: str) -> None:
        self.setup, self.precision = setup, precision
        log = setup.logs / f"{self.label}-{precision}.log"
        super().__init__([], log, name=f"{self.label} {precision}", start_s=START_S)

    def arguments(self) -> list[str]:
        raise LoadtestError(f"{self.label} has no process of its own")

    def run(self, prompts: PromptSet, load: Load) -> dict[str, Any]:
        raise LoadtestError(f"{self.label} cannot run")

    def launch(self, stdout: Any = None) -> None:
        self.command = self.arguments()
        super().launch(stdout)

    def weights_gib(self) -> float | None:
        """What vLLM says that the weights take on the GPU."""
        found = WEIGHTS.findall(self.log.read_text(errors="replace"))
        return float(found[-1]) if found else None


class Offline(Contender):
    """vLLM's ``LLM``: no server, no streaming, nothing but the engine. The ceiling."""

    label = "vllm-offline"
    kind = "vllm"

    def arguments(self) -> list[str]:
        module = "loadtest.bench.gpu.offline"
        return [sys.executable, "-m", module, self.kind, str(self.setup.engine), str(self.setup.kv_bytes)]

    def launch(self, stdout: Any = None) -> None:
        super().launch(subprocess.PIPE)

    def ready(self) -> bool:
        return "ready" in self._read()

    def run(self, prompts: PromptSet, load: Load) -> dict[str, Any]:
        tokens = seconds = 0.0
        for at in range(0, len(prompts.ids), load.streams):
            reply = self.ask(prompts.ids[at : at + load.streams], tokens=load.tokens, sampling=load.sampling)
            tokens, seconds = tokens + reply["tokens"], seconds + reply["seconds"]
        return {"requests": len(prompts.ids), "errors": 0, "tokens": int(tokens), "seconds": round(seconds, 4),
                "tokens_per_s": round(tokens / seconds, 1)}  # fmt: skip

    def ask(
        self, ids: list[list[int]], *, outputs: bool = False, tokens: int = 0, sampling: str = "greedy"
    ) -> dict[str, Any]:
        assert self.popen is not None and self.popen.stdin is not None
        command = {"ids": ids, "tokens": tokens or self.setup.max_tokens, "outputs": outputs}
        command["sampling"] = samples.SAMPLING[sampling]
        self.popen.stdin.write(json.dumps(command) + "\n")
        self.popen.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.popen is not None and self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            raise LoadtestError(f"{self.name} ended; see {self.log}")
        reply: dict[str, Any] = json.loads(line)
        return reply


class Transformers(Offline):
    label = "transformers"
    kind = "transformers"


class OpenAIServer(Contender):
    """A server of the OpenAI API, measured by our client or, with ``setup.vllm_client``, by ``vllm bench serve``."""

    _client: subprocess.Popen[str] | None = None

    @property
    def http_port(self) -> int:
        return self.setup.port

    def ready(self) -> bool:
        return _answers(f"http://127.0.0.1:{self.http_port}/health")

    def run(self, prompts: PromptSet, load: Load) -> dict[str, Any]:
        base = f"127.0.0.1:{self.http_port}"
        with urllib.request.urlopen(f"http://{base}/v1/models", timeout=10) as response:
            model = json.load(response)["data"][0]["id"]
        if self.setup.vllm_client:
            return self._by_vllms_client(prompts, load, model)
        target = client.BenchTarget("sse", base, model, load.tokens or self.setup.max_tokens)
        return summarize(client.run(target, prompts.texts, load))

    def stop(self) -> None:
        super().stop()
        if self._client is not None:
            self._client.kill()
            self._client.wait()

    def _by_vllms_client(self, prompts: PromptSet, load: Load, model: str) -> dict[str, Any]:
        if self._client is None:
            with (self.setup.logs / f"{self.label}-client.log").open("a") as log:
                self._client = subprocess.Popen(
                    [sys.executable, "-m", "loadtest.bench.gpu.vllm_client"],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
        assert self._client.stdin is not None and self._client.stdout is not None
        with tempfile.TemporaryDirectory() as scratch:
            path = prompts.write_jsonl(Path(scratch) / "prompts.jsonl")
            self._client.stdin.write(json.dumps(self._client_arguments(path, len(prompts.texts), load, model)) + "\n")
            self._client.stdin.flush()
            answer = json.loads(self._client.stdout.readline() or '{"error": "it ended"}')
        if "error" in answer:
            raise LoadtestError(f"vllm bench serve: {answer['error']}")
        return _from_vllm(answer)

    def _client_arguments(self, prompts: Path, count: int, load: Load, model: str) -> list[str]:
        pace = ["--request-rate", str(load.rate)] if load.rate else ["--max-concurrency", str(load.streams)]
        sampling = [part for name, value in samples.SAMPLING[load.sampling].items()
                    for part in (f"--{name.replace('_', '-')}", f"{value:g}")]  # fmt: skip
        return [
            "--backend", "openai", "--host", "127.0.0.1", "--port", str(self.http_port), "--model", model,
            "--tokenizer", str(self.setup.engine), "--dataset-name", "custom", "--dataset-path", str(prompts),
            "--skip-chat-template", "--custom-output-len", str(load.tokens or self.setup.max_tokens), "--ignore-eos",
            *sampling, "--num-prompts", str(count), *pace, "--disable-tqdm",
            "--percentile-metrics", "ttft,tpot,itl", "--metric-percentiles", "50,90,99",
            "--ready-check-timeout-sec", "0",
        ]  # fmt: skip


class OursGrpc(Contender):
    """This project: launcher, Triton, ensemble, gateway. Measured over gRPC."""

    label = "ours-grpc"

    def arguments(self) -> list[str]:
        port = self.setup.port
        command = [sys.executable, "-m", "serving", "--engine", str(self.setup.engine), "--gateway-port", str(port + 3)]
        for offset, name in enumerate(("http", "grpc", "metrics")):
            command += [f"--{name}-port", str(port + offset)]
        command += ["--max-streams", str(self.setup.max_streams), "--kv-cache-gb", str(self.setup.kv_bytes / 2**30)]
        return command

    def ready(self) -> bool:
        return _answers(f"http://127.0.0.1:{self.setup.port + 3}/health/ready")

    def run(self, prompts: PromptSet, load: Load) -> dict[str, Any]:
        tokens = load.tokens or self.setup.max_tokens
        endpoint = client.BenchTarget("grpc", f"127.0.0.1:{self.setup.port + 1}", "qwen", tokens)
        return summarize(client.run(endpoint, prompts.texts, load))

    def weights_gib(self) -> float | None:
        found = WEIGHTS.findall((ROOT / f".run/triton-{self.setup.port}.log").read_text(errors="replace"))
        return float(found[-1]) if found else None


class OursGateway(OpenAIServer):
    """The same server as ``OursGrpc``, measured through the OpenAI gateway."""

    label = "ours-gateway"
    seed_shift = 10_000  # its own prompts: the engine behind it has seen those of the gRPC run

    def __init__(self, server: OursGrpc) -> None:
        super().__init__(server.setup, server.precision)
        self._server = server

    def launch(self, stdout: Any = None) -> None:
        return None

    def wait(self) -> None:
        self._server.wait()

    def cpu_seconds(self, containing: str = "") -> float:
        return self._server.cpu_seconds(containing)

    @property
    def http_port(self) -> int:
        return self.setup.port + 3

    def weights_gib(self) -> float | None:
        return self._server.weights_gib()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _from_vllm(result: dict[str, Any]) -> dict[str, Any]:
    """The JSON of ``vllm bench serve`` in our terms."""

    def quantiles(name: str) -> dict[str, float]:
        return {f"p{q}": round(float(result[f"p{q}_{name}_ms"]), 3) for q in (50, 90, 99)}

    return {
        "requests": result["completed"],
        "errors": int(result.get("failed", 0)),
        "tokens": result["total_output_tokens"],
        "seconds": round(result["duration"], 4),
        "tokens_per_s": round(result["output_throughput"], 1),
        **{f"{name}_ms": quantiles(name) for name in ("ttft", "tpot", "itl")},
    }
