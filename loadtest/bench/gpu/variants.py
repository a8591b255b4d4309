"""Engine options against each other: each variant in a process of its own, all loaded at once, measured one by one.

``python -m loadtest.bench.gpu.variants --only base marlin cublas --gpus 0``

Drives our own runtime without Triton, so a figure is the engine's and the adapter's, warm-up and start included.
Weights are made up by vLLM (``load_format=dummy``) unless ``--checkpoint`` names some. Greedy text of made-up weights
soon repeats itself, so speculation is also measured on prompts that hold their own answer, and ``defaults`` (sampled,
with a repetition penalty) is text that does not repeat.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from build_engine.spec import BuildSpec
from build_engine.vllm import build as vllm_build
from build_engine.vllm import int8
from contract import engine_dir
from loadtest.arguments import Arguments, count, positive
from loadtest.bench import result
from loadtest.bench.gpu import adapters, engines
from loadtest.bench.gpu.runtime_worker import RuntimeWorker, WorkerLoad
from loadtest.errors import LoadtestError

log = logging.getLogger("variants")

FP8_CHANNELS = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False}
FP8_TOKENS = FP8_CHANNELS | {"strategy": "token", "dynamic": True}
FP8_HEAD = {  # as a compressed-tensors checkpoint says it; the output layer in FP8 too
    "quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
    "ignore": [],
    "config_groups": {
        "group_0": {"targets": ["Linear", "re:.*lm_head"], "weights": FP8_CHANNELS, "input_activations": FP8_TOKENS}
    },
}  # fmt: skip
MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": None, "ignore": ["lm_head"]}
RATE_SECONDS = 10.0  # of arrivals
FEW_GRAPHS = [1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 192, 224, 256]


@dataclass(frozen=True, slots=True)
class Variant:
    """What differs from the engine that ``make engine RUNTIME=vllm PRECISION=fp8`` builds, and what is hoped for."""

    hope: str
    options: dict[str, Any] = field(default_factory=dict)  # vLLM's engine arguments
    environment: dict[str, str] = field(default_factory=dict)
    quantization: dict[str, Any] = field(default_factory=dict)  # of config.json
    precision: str = ""  # default: --precision
    adapters: int = 0


VARIANTS = {
    "base": Variant("what is served today"),
    "marlin": Variant("weight-only FP8: all cores read weights, no activation scales", {"linear_backend": "marlin"}),
    "marlin-head": Variant("the same, output layer in FP8", {"linear_backend": "marlin"}, quantization=FP8_HEAD),
    "head": Variant("output layer in FP8: 0.5 of 7.6 GB less per step", quantization=FP8_HEAD),
    "cublas": Variant("cuBLAS splits K at small batches", {"linear_backend": "torch"}, quantization=MODELOPT),
    "block": Variant(
        "FlashInfer's swapped and DeepGEMM's kernels", {"quantization": "fp8_per_block"},
        {"VLLM_DEEP_GEMM_WARMUP": "skip"},
    ),
    "channel": Variant("a scale per output row: better accuracy at no cost?", {"quantization": "fp8_per_channel"}),
    "kv-fp8": Variant("half the KV traffic at 256 streams", {"kv_cache_dtype": "fp8"}),
    "full-graphs": Variant("mixed steps as graphs too", {"compilation_config": {"cudagraph_mode": "FULL"}}),
    "few-graphs": Variant("a shorter start", {"compilation_config": {"cudagraph_capture_sizes": FEW_GRAPHS}}),
    "steps-8k": Variant("prefill in fewer steps", {"max_num_batched_tokens": 8192}),
    "steps-1k": Variant("shorter gaps", {"max_num_batched_tokens": 1024}),
    "no-async": Variant("what asynchronous scheduling is worth", {"async_scheduling": False}),
    "v1": Variant("the older model runner", environment={"VLLM_USE_V2_MODEL_RUNNER": "0"}),
    "ngram": Variant("drafts from the text so far", {"speculative_config": dict(vllm_build.NGRAM)}),
    "ngram-gpu": Variant(
        "the same, proposed on the GPU, scheduled asynchronously",
        {"speculative_config": vllm_build.NGRAM | {"method": "ngram_gpu"}},
    ),
    "int8": Variant("W8A8", precision="int8", quantization=int8.quantization_config()),
    "bf16": Variant("no quantization", precision="bf16"),
    "lora": Variant("two adapters beside the base", adapters=2),
}  # fmt: skip


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Arguments(prog="variants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", default=["base"], choices=list(VARIANTS), metavar="NAME", help=", ".join(VARIANTS))
    add("--checkpoint", type=Path, help="real weights (default: vLLM makes them up)")
    add("--config", type=Path, default=engines.CONFIG, help="shape of the made-up model (%(default)s)")
    add("--precision", default="fp8", choices=["fp8", "bf16"], help="of what is varied (%(default)s)")
    add("--work", type=Path, default=Path("engines/variants"), help="where the engines go (%(default)s)")
    add("--gpus", nargs="+", default=["0"], help="variants are spread over them (%(default)s)")
    add("--streams", nargs="+", type=count, default=[1, 128, 256])
    add("--rates", nargs="*", type=positive, default=[], help="requests/s in an open loop, beside --streams")
    add("--sampling", nargs="+", default=["greedy", "defaults"], choices=["greedy", "defaults"])
    add("--repeats", action="store_true", help="every variant on text that repeats, not only those that speculate")
    add("--input-tokens", type=count, default=512)
    add("--output-tokens", type=count, default=128)
    add("--kv-gib", type=float, default=10.0, help="KV cache of each engine (%(default)s)")
    add("--start-seconds", type=float, default=400.0)
    add("--out", type=Path, default=result.RESULTS / "variants.json")
    return parser.parse_args(argv)


def engine_of(name: str, args: argparse.Namespace) -> Path:
    """The variant's engine directory: the builder's, with the variant's options; kept if it is there."""
    variant = VARIANTS[name]
    source = args.checkpoint or engines.checkpoint(args.work / "checkpoint", args.config, weights=False)
    out: Path = args.work / name
    lora = tuple(adapters.write(args.work / "adapters", source, variant.adapters))
    precision = variant.precision or args.precision
    if (out / "engine.json").is_file():
        there = engine_dir.read(out)
        if (there.precision, there.runtime.options) == (precision, variant.options):
            return out
    spec = BuildSpec(
        str(source), precision, "vllm", out, context=engines.CONTEXT, vllm_args=dict(variant.options), lora=lora,
        command="variants",
    )  # fmt: skip
    vllm_build.build(spec)
    if variant.quantization:
        path = out / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) | {"quantization_config": variant.quantization}
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return out


def loads(args: argparse.Namespace, names: tuple[str, ...], speculates: bool) -> Iterable[WorkerLoad]:
    for sampling in args.sampling:
        for streams in args.streams:
            shape = args.input_tokens, args.output_tokens if streams > 1 else 2 * args.output_tokens
            yield WorkerLoad(streams, 2 * streams if streams > 1 else 3, sampling, *shape)
        for rate in args.rates:
            yield WorkerLoad(0, round(rate * RATE_SECONDS), sampling, *shape, rate=rate)
    if speculates:
        for streams in args.streams[:2]:  # longer prompts: more would not fit the KV cache
            yield WorkerLoad(streams, max(3, streams), "greedy", *shape, repeats=True)
    if names:
        yield WorkerLoad(max(args.streams), 2 * max(args.streams), args.sampling[-1], *shape, adapters=names)


def measure(name: str, worker: RuntimeWorker, args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Adds the variant's rows, or one that says why there are none."""
    try:
        start = worker.wait_ready()
        speculates = args.repeats or "speculative_config" in VARIANTS[name].options
        names = tuple(f"adapter-{number}" for number in range(1, VARIANTS[name].adapters + 1))
        worker.run(WorkerLoad(max(args.streams), max(args.streams), args.sampling[0], args.input_tokens, 8))
        for load in loads(args, names, speculates):
            seen = worker.run(load)
            row = {"variant": name, "load": str(load)} | seen | {"start_s": start}
            log.info("%s", json.dumps(row))
            rows.append(row)
    except LoadtestError as error:
        log.error("%s: %s", name, error)
        rows.append({"variant": name, "error": str(error)})
    finally:
        worker.stop()


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    workers: dict[str, tuple[str, RuntimeWorker]] = {}
    for at, name in enumerate(args.only):
        gpu = args.gpus[at % len(args.gpus)]
        environment = {"CUDA_VISIBLE_DEVICES": gpu} | VARIANTS[name].environment
        logs = args.out.parent / f"variant-{name}.log"
        worker = RuntimeWorker(engine_of(name, args), args.kv_gib, logs, name, args.start_seconds, environment)
        workers[name] = gpu, worker
        worker.launch()

    def on_gpu(gpu: str) -> None:
        """One after the other, and only once all of this GPU are loaded: a start takes its cores and memory."""
        mine = [name for name, (where, _) in workers.items() if where == gpu]
        for name in mine:
            workers[name][1].await_or_note()
        for name in mine:
            measure(name, workers[name][1], args, rows)

    threads = [threading.Thread(target=on_gpu, args=(gpu,)) for gpu in dict.fromkeys(args.gpus)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = arguments()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    about = result.environment("variants", args, hopes={name: VARIANTS[name].hope for name in args.only})
    started = time.monotonic()
    rows = run(args)
    result.write(args.out, about, rows)
    names = [
        "variant",
        "load",
        "tokens_per_s",
        "ttft_p50_ms",
        "tpot_p50_ms",
        "itl_p99_ms",
        "accepted",
        "start_s",
        "error",
    ]
    result.show_table("engine variants", names, [[row.get(name, "") for name in names] for row in rows])
    print(f"written to {args.out} after {time.monotonic() - started:.0f} s")
    return 1 if all("error" in row for row in rows) else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHON_EXECUTABLE", sys.executable)
    sys.exit(main())
