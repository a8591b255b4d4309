"""``python -m build_engine.fp8``: a complete FP8 checkpoint from a BF16 one, where torch is (NVIDIA's container)."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from build_engine.checkpoint import read_config
from build_engine.fp8 import export
from build_engine.staging import staged
from build_engine.tokenizer_files import copy, dump
from contract import user_text
from contract.errors import BuildError


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m build_engine.fp8", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="BF16 checkpoint directory")
    parser.add_argument("--output", type=Path, required=True, help="where the FP8 checkpoint goes")
    parser.add_argument("--calibration", type=Path, required=True, help="JSON lines with a `text` column")
    parser.add_argument("--fp8-kv", action="store_true", help="FP8 KV scales too (known risky on Qwen2.5)")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = export.Fp8Options(kv=args.fp8_kv)
    try:
        config = read_config(args.model)
        prompts = export.encoded(args.model, read_prompts(args.calibration))
        with staged(args.output) as directory:
            export.export(args.model, directory, config, prompts, options)
            copy(args.model, directory)
            dump(config | {"quantization_config": export.quantization_config(options)}, directory / "config.json")
    except BuildError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


def read_prompts(path: Path) -> list[str]:
    """The ``text`` of each line of a JSONL file."""
    try:
        texts = [str(row["text"]) for _, row in user_text.json_lines(user_text.read(path))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{path} cannot be read as JSON lines with a `text` column ({error})") from error
    if not texts:
        raise BuildError(f"{path} holds no calibration prompt")
    return texts


if __name__ == "__main__":
    raise SystemExit(main())
