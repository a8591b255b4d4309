"""The command line of `make bench-gpu`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from contract.paths import ROOT
from loadtest.arguments import Arguments, count, positive
from loadtest.bench.gpu import report
from loadtest.bench.gpu.engines import BUILDS
from loadtest.bench.gpu.samples import SAMPLING

PRECISIONS = ("fp8", "fp8-dynamic", "bf16", *BUILDS)


def parse(description: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Arguments(prog="bench-gpu", description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--work", type=Path, default=Path("engines/bench"), help="checkpoint and engines, about 40 GB (%(default)s)")
    add("--out", type=Path, default=ROOT / "results", help="where the results go (%(default)s)")
    add("--precision", nargs="+", default=["fp8", "bf16"], choices=PRECISIONS)
    add(
        "--contenders",
        nargs="+",
        type=_contender,
        default=[(name, "") for name in report.CONTENDERS if name not in report.NAMED_ONLY],
        metavar="NAME[:PRECISION]",
        help=f"{', '.join(report.CONTENDERS)} (all but {' and '.join(report.NAMED_ONLY)})",
    )
    add("--together", action="store_true", help="load the servers of all precisions at once and alternate them")
    add("--tp", type=count, default=1, help="GPUs per engine, tensor parallel (%(default)s)")
    add("--streams", nargs="+", type=count, default=[1, 32, 128, 256])
    add("--rates", nargs="*", type=positive, default=[], help="requests/s in an open loop, beside --streams")
    add("--answers", nargs="*", type=_answers, default=[], metavar="STREAMSxTOKENS", help="other answer lengths too")
    add("--sampling", nargs="+", default=["greedy", "defaults"], choices=list(SAMPLING), help="(%(default)s)")
    add("--client", choices=["ours", "vllm"], default="ours", help="what measures the OpenAI servers (%(default)s)")
    add("--vllm-steps", action="store_true", help="`vllm serve` with its own tokens per step instead of our engine's")
    add("--shared-prefix", type=int, default=0, help="tokens that all prompts begin with (%(default)s)")
    add("--dummy", action="store_true", help="random weights of vLLM's own: no checkpoint on disk, answers are noise")
    add(
        "--vllm-args",
        type=json.loads,
        default={},
        metavar="JSON",
        help="of our engine alone, as in VLLM_ARGS=",
    )
    add("--rounds", type=count, default=3)
    add("--rate-seconds", type=positive, default=20.0, help="length of an open-loop run (%(default)s)")
    add("--requests", type=count, default=2, help="requests per stream in a run (%(default)s)")
    add("--input-tokens", type=count, default=512)
    add("--output-tokens", type=count, default=256)
    add("--kv-gib", type=count, default=18, help="KV cache of each engine (%(default)s)")
    add("--port", type=int, default=18600, help="first of 25 free ports, per precision with --together (%(default)s)")
    add("--deadline", type=float, default=0, help="seconds after which no round begins but the first (0: none)")
    args = parser.parse_args(argv)
    served = {precision for name, precision in args.contenders if name == "ours-grpc"}
    if any(not served & {"", precision} for name, precision in args.contenders if name == "ours-gateway"):
        parser.error("--contenders: ours-gateway is measured on the server of ours-grpc; name both")
    return args


def _contender(text: str) -> tuple[str, str]:
    name, _, precision = text.partition(":")
    if name not in report.CONTENDERS or precision not in ("", *PRECISIONS):
        known = f"one of {', '.join(report.CONTENDERS)}, and after a colon one of {', '.join(PRECISIONS)}"
        raise argparse.ArgumentTypeError(f"{text!r} is not {known}")
    return name, precision


def _answers(text: str) -> tuple[int, int]:
    streams, _, tokens = text.partition("x")
    try:
        return count(streams), count(tokens)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not STREAMSxTOKENS, like 128x1024") from error
