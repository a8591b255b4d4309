"""``build``: a checkpoint becomes an engine directory for one runtime."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

from build_engine.errors import BuildError
from build_engine.spec import PRECISIONS, SYNTHETIC, BuildSpec

# runtime -> module with ``build(spec: BuildSpec) -> Path`` and ``PRECISIONS``; imported only when it is asked for
BUILDERS = {"openvino": "build_engine.openvino_build"}
DEFAULT_RUNTIME = {"int8": "openvino", "int4": "openvino", "bf16": "openvino", "fp32": "openvino"}


def add_parser(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = sub.add_parser("build", help="checkpoint -> engine directory")
    parser.add_argument("--model", required=True, help=f"directory, hub id, {' or '.join(SYNTHETIC)}")
    parser.add_argument("--precision", default="int8", metavar="P", help=", ".join(PRECISIONS) + " (%(default)s)")
    parser.add_argument("--runtime", metavar="R", help=", ".join(BUILDERS) + " (default: by precision)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--context", type=int, metavar="N", help="prompt + output tokens (the checkpoint's own)")
    parser.add_argument("--revision", help="hub revision")
    parser.add_argument("--force", action="store_true", help="build again what is up to date")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    out = build(spec_of(args))
    print(f"engine ready: {out}")


def spec_of(args: argparse.Namespace) -> BuildSpec:
    if args.precision not in PRECISIONS:
        raise BuildError(f"--precision: {args.precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
    if args.context is not None and args.context < 2:
        raise BuildError(f"--context: {args.context} is too small: a prompt and an answer need at least 2 tokens")
    return BuildSpec(
        model=args.model,
        precision=args.precision,
        runtime=args.runtime or DEFAULT_RUNTIME.get(args.precision, ""),
        out=args.out,
        context=args.context,
        revision=args.revision,
        force=args.force,
        command=args.command_line,
    )


def build(spec: BuildSpec) -> Path:
    """Build ``spec`` with its runtime's builder; returns the engine directory. Raises ``BuildError``."""
    if spec.runtime not in BUILDERS:
        raise BuildError(
            f"--runtime: no builder {spec.runtime!r} for precision {spec.precision}: use {', '.join(BUILDERS)}"
        )
    builder = importlib.import_module(BUILDERS[spec.runtime])
    if spec.precision not in builder.PRECISIONS:
        raise BuildError(
            f"--precision: {spec.runtime} cannot do {spec.precision}: use one of {', '.join(builder.PRECISIONS)}"
        )
    return cast(Callable[[BuildSpec], Path], builder.build)(spec)
