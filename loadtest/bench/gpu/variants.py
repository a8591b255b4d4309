"""Engine options against each other: each variant in a process of its own, all loaded at once, measured one by one.

``python -m loadtest.bench.gpu.variants --only base marlin cublas --gpus 0``

Drives our own runtime without Triton, so a figure is the engine's and the adapter's, warm-up and start included.
Weights are made up by vLLM (``load_format=dummy``) unless ``--checkpoint`` names some. Greedy text of made-up weights
soon repeats itself, so speculation is also measured on prompts that hold their own answer, and ``defaults`` (sampled,
with a repetition penalty) is text that does not repeat.
"""

from __future__ import annotations

import contract.program

import argparse
import dataclasses
import json
import logging
import os
import shutil
import statistics
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
from contract.errors import BuildError
from loadtest.arguments import Arguments, count, positive
from loadtest.bench import result
from loadtest.bench.gpu import adapters, engines
from loadtest.bench.gpu.runtime_worker import RuntimeWorker, WorkerLoad
from loadtest.errors import LoadtestError
from serving.runtimes.vllm import args as vllm_args

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
GRAPHS = {"cudagraph_capture_sizes": list(vllm_args.GRAPH_SIZES)}  # a compilation_config has to bring them itself
FEW_GRAPHS = [1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 192, 224, 256]


@dataclass(frozen=True, slots=True)
class Variant:
    """What differs from the engine that ``make engine RUNTIME=vllm PRECISION=fp8`` builds, and what is hoped for."""

    hope: str
    options: dict[str, Any] = field(default_factory=dict)  # vLLM's engine arguments
    environment: dict[str, str] = field(default_factory=dict)
    quantization: dict[str, Any] = field(default_factory=dict)  # of config.json, for weights that vLLM makes up
    precision: str = ""  # default: --precision
    head: bool = False  # FP8 output layer of static FP8
    kv: str | None = None
    adapters: int = 0


VARIANTS = {
    "base": Variant("what --precision makes"),
    "dynamic": Variant("activations scaled while serving", precision="fp8-dynamic"),
    "static": Variant("scales folded into norms and activations; CUTLASS", precision="fp8"),
    "static-cublas": Variant("cuBLAS splits K at small batches", {"linear_backend": "torch"}, precision="fp8"),
    "static-head": Variant("output layer too: 0.5 of 7.6 GB less per step", precision="fp8", head=True),
    "static-head-vllm": Variant(
        "vLLM's own sampler, attention and FP8 kernels", {"worker_cls": "auto"}, precision="fp8", head=True
    ),
    "static-head-one": Variant(
        "scheduler and model runner in one process", {"distributed_executor_backend": "uni"}, precision="fp8", head=True
    ),
    "static-head-cublas": Variant("both", {"linear_backend": "torch"}, precision="fp8", head=True),
    "static-kv": Variant("half the KV traffic, calibrated", precision="fp8", kv="fp8"),
    "static-no-async": Variant("a request waits one step less", {"async_scheduling": False}, precision="fp8"),
    "static-own-graphs": Variant(
        "vLLM's own graphs, up to 512 tokens", {"compilation_config": {}}, precision="fp8"
    ),
    "static-full": Variant(
        "attention in the graphs of mixed steps too",
        {"compilation_config": GRAPHS | {"cudagraph_mode": "FULL"}},
        precision="fp8",
    ),
    "static-steps-4k": Variant("prefill in fewer steps", {"max_num_batched_tokens": 4096}, precision="fp8"),
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
    add("--checkpoint", type=Path, help="real weights (default: vLLM makes them up, not for fp8)")
    add("--config", type=Path, default=engines.CONFIG, help="shape of the made-up model (%(default)s)")
    add(
        "--precision",
        default="fp8-dynamic",
        choices=["fp8", "fp8-dynamic", "bf16"],
        help="of what is varied (%(default)s)",
    )
    add("--work", type=Path, default=Path("engines/variants"), help="where the engines go (%(default)s)")
    add("--gpus", nargs="+", default=["0"], help="variants are spread over them (%(default)s)")
    add("--streams", nargs="+", type=count, default=[1, 128, 256])
    add("--rates", nargs="*", type=positive, default=[], help="requests/s in an open loop, beside --streams")
    add("--sampling", nargs="+", default=["greedy", "defaults"], choices=["greedy", "defaults"])
    add("--repeats", action="store_true", help="every variant on text that repeats, not only those that speculate")
    add("--rounds", type=count, default=1, help="of all variants in turn (%(default)s)")
    add("--rate-seconds", type=positive, default=10.0, help="length of an open-loop run (%(default)s)")
    add("--input-tokens", type=count, default=512)
    add("--output-tokens", type=count, default=128)
    add("--kv-gib", type=float, default=10.0, help="KV cache of each engine (%(default)s)")
    add("--start-seconds", type=float, default=400.0)
    add("--out", type=Path, default=result.RESULTS / "variants.json")
    return parser.parse_args(argv)


def engine_of(name: str, args: argparse.Namespace) -> Path:
    """The variant's engine directory: the builder's, with the variant's options; kept if it is there.

    Variants that differ in options alone share the weights of one build."""
    variant = VARIANTS[name]
    source = args.checkpoint or engines.checkpoint(args.work / "checkpoint", args.config, weights=False)
    precision = variant.precision or args.precision
    lora = tuple(adapters.write(args.work / "adapters", source, variant.adapters))
    parts = [precision, *(["head"] if variant.head else []), *(["kv"] if variant.kv else []), *(n for n, _ in lora)]
    built: Path = args.work / "-".join(["built", *parts])
    if not (built / "engine.json").is_file():
        vllm_build.build(BuildSpec(
            str(source), precision, "vllm", built, context=engines.CONTEXT, kv_dtype=variant.kv,
            fp8_head=variant.head, lora=lora, command="variants",
        ))  # fmt: skip
    out: Path = args.work / name
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(built, out, copy_function=os.link)
    for file in ("engine.json", "config.json"):
        (out / file).unlink()  # a link: writing it would change the build
    config = json.loads((built / "config.json").read_text(encoding="utf-8"))
    if variant.quantization:
        config["quantization_config"] = variant.quantization
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    info = engine_dir.read(built)
    runtime = dataclasses.replace(info.runtime, options=info.runtime.options | variant.options)
    engine_dir.write(dataclasses.replace(info, runtime=runtime), out)
    return out


def loads(args: argparse.Namespace, names: tuple[str, ...], speculates: bool) -> Iterable[WorkerLoad]:
    for sampling in args.sampling:
        for streams in args.streams:
            shape = args.input_tokens, args.output_tokens if streams > 1 else 2 * args.output_tokens
            yield WorkerLoad(streams, 2 * streams if streams > 1 else 3, sampling, *shape)
        for rate in args.rates:
            yield WorkerLoad(0, round(rate * args.rate_seconds), sampling, *shape, rate=rate)
    if speculates:
        for streams in args.streams[:2]:  # longer prompts: more would not fit the KV cache
            yield WorkerLoad(streams, max(3, streams), "greedy", *shape, repeats=True)
    if names:
        yield WorkerLoad(max(args.streams), 2 * max(args.streams), args.sampling[-1], *shape, adapters=names)


def measure(
    name: str, worker: RuntimeWorker, args: argparse.Namespace, rows: list[dict[str, Any]], number: int
) -> None:
    """Adds the variant's rows of round ``number``, or one that says why there are none."""
    try:
        start = worker.wait_ready()
        speculates = args.repeats or "speculative_config" in VARIANTS[name].options
        names = tuple(f"adapter-{adapter}" for adapter in range(1, VARIANTS[name].adapters + 1))
        if number == 1:
            worker.run(WorkerLoad(max(args.streams), max(args.streams), args.sampling[0], args.input_tokens, 8))
        for load in loads(args, names, speculates):
            seen = worker.run(load)
            row = {"variant": name, "load": str(load), "round": number} | seen | {"start_s": start}
            log.info("%s", json.dumps(row))
            rows.append(row)
    except LoadtestError as error:
        log.error("%s: %s", name, error)
        rows.append({"variant": name, "error": str(error)})
        worker.stop()


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    workers: dict[str, tuple[str, RuntimeWorker]] = {}
    for at, name in enumerate(args.only):
        gpu = args.gpus[at % len(args.gpus)]
        environment = {"CUDA_VISIBLE_DEVICES": gpu} | VARIANTS[name].environment
        logs = args.out.parent / f"variant-{name}.log"
        try:
            directory = engine_of(name, args)
        except BuildError as error:
            rows.append({"variant": name, "error": str(error)})
            continue
        worker = RuntimeWorker(directory, args.kv_gib, logs, name, args.start_seconds, environment)
        workers[name] = gpu, worker
        worker.launch()

    def on_gpu(gpu: str) -> None:
        """One after the other, and only once all of this GPU are loaded: a start takes its cores and memory."""
        mine = [name for name, (where, _) in workers.items() if where == gpu]
        for name in mine:
            workers[name][1].await_or_note()
        for number in range(1, args.rounds + 1):
            for name in mine if number % 2 else mine[::-1]:
                if not any(row["variant"] == name and "error" in row for row in rows):
                    measure(name, workers[name][1], args, rows, number)
        for name in mine:
            workers[name][1].stop()

    threads = [threading.Thread(target=on_gpu, args=(gpu,)) for gpu in dict.fromkeys(args.gpus)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows


def medians(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per variant and load, of the medians of its rounds; ``spread``: (max - min) / median of tokens/s."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["variant"], row.get("load", "")), []).append(row)
    return [_median(group) for group in groups.values()]


def _median(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    numbers = {name for row in group for name, value in row.items() if isinstance(value, float)}
    found = {name: statistics.median(row[name] for row in group if name in row) for name in numbers}
    speeds = [row["tokens_per_s"] for row in group if row.get("tokens_per_s")]
    if speeds:
        found["spread"] = round((max(speeds) - min(speeds)) / statistics.median(speeds), 4)
    return dict(group[0]) | found | {"rounds": len(group)}


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = arguments()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    about = result.environment("variants", args, hopes={name: VARIANTS[name].hope for name in args.only})
    started = time.monotonic()
    rows = run(args)
    result.write(args.out, about, medians(rows), rounds=rows)
    names = [
        "variant",
        "load",
        "tokens_per_s",
        "spread",
        "ttft_p50_ms",
        "tpot_p50_ms",
        "itl_p99_ms",
        "accepted",
        "start_s",
        "error",
    ]
    result.show_table("engine variants", names, [[row.get(name, "") for name in names] for row in medians(rows)])
    print(f"written to {args.out} after {time.monotonic() - started:.0f} s")
    return 1 if all("error" in row for row in rows) else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHON_EXECUTABLE", sys.executable)
    sys.exit(main())
