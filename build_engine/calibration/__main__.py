"""``python -m build_engine.calibration --output DIR [--prompts PATH]``"""

from __future__ import annotations

from pathlib import Path

from build_engine.calibration import datasets
from contract.arguments import Arguments
from contract.errors import BuildError


def main() -> int:
    parser = Arguments(prog="python -m build_engine.calibration", description="Write calibration data.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, help="your own: .jsonl, .json, .txt or a directory (default: shipped)")
    parser.add_argument("--count", type=int, default=512, help="shipped prompts to write (default %(default)s)")
    args = parser.parse_args()
    try:
        datasets.write(args.output, datasets.read(args.prompts) if args.prompts else datasets.shipped(args.count))
    except BuildError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
