"""A checkpoint for a longer context: links to its files, and a ``config.json`` with YaRN and a larger position table.

``python3 -m build_engine.tensorrt_llm.yarn --model DIR --context TOKENS --output DIR``
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from build_engine.plan.model import load_config
from build_engine.plan.profiles import with_yarn
from build_engine.rope import spelled_out
from contract.arguments import Arguments
from contract.errors import BuildError


def link_with_yarn(model: Path, output: Path, max_seq_len: int) -> None:
    """Fill ``output`` (an existing directory). The weights are symbolic links: nothing is copied."""
    config = spelled_out(with_yarn(load_config(str(model)), max_seq_len))
    for path in sorted(model.resolve().iterdir()):
        if path.is_file() and path.name != "config.json":
            (output / path.name).symlink_to(path)
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = Arguments(prog="python3 -m build_engine.tensorrt_llm.yarn", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        link_with_yarn(args.model, args.output, args.context)
    except BuildError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
