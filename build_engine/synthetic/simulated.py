"""``simulated``: an engine directory with Qwen2.5's tokenizer and no weights, for tests and serving benchmarks."""

from __future__ import annotations

import argparse
from pathlib import Path

from build_engine import tokenizer_files
from build_engine.plan import profiles
from build_engine.staging import file_infos, staged
from contract import engine_dir
from contract.engine_dir import BuildInfo, EngineInfo, EngineLimits, ModelInfo, RuntimeInfo

VOCAB_SIZE = 152064
DEFAULT_CONTEXT = 32768


def add_parser(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = sub.add_parser("simulated", help="write an engine directory without weights")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--context", type=int, default=DEFAULT_CONTEXT, help="prompt + output tokens (%(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    profiles.by_context(str(args.context))
    write(args.out, args.context, command=args.command_line)
    print(f"{args.out}: simulated engine, context {args.context} tokens")


def write(out: Path, context: int = DEFAULT_CONTEXT, command: str = "") -> None:
    """Write a complete engine directory for the ``simulated`` runtime. Raises ``BuildError`` without a vocabulary."""
    with staged(out) as directory:
        tokenizer_files.write(directory)
        config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": VOCAB_SIZE}
        tokenizer_files.dump({**config, "max_position_embeddings": context}, directory / "config.json")
        engine = EngineInfo(
            model=ModelInfo("qwen2.5-simulated", "simulated", synthetic=True, vocab_size=VOCAB_SIZE),
            runtime=RuntimeInfo("simulated"),
            precision="fp32",
            kv_dtype="fp32",
            limits=EngineLimits(max_seq_len=context, max_input_len=context - 1),
            files=file_infos(directory),
            build=BuildInfo(commands=[command] if command else []),
        )
        engine_dir.write(engine, directory)
