"""``python -m build_engine COMMAND``: a command is a module with ``add_parser(sub)`` and ``run(args)``."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main() handles it: no traceback from an import

from contract.arguments import Arguments
from contract.errors import OperatorError

COMMANDS = (
    "build_engine.plan.cli",
    "build_engine.tensorrt_llm.preflight",
    "build_engine.verify.gate",
    "build_engine.build",
    "build_engine.synthetic.simulated",
    "build_engine.synthetic.checkpoint",
)
INTERRUPTED = 130  # the shell's code for Ctrl-C


def parser() -> argparse.ArgumentParser:
    top = Arguments(prog="python -m build_engine", description="Checkpoint -> engine directory.")
    sub = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        importlib.import_module(module).add_parser(sub)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its notice that torch is missing, on every build
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(arguments)  # the slow imports happen here
    args.command_line = "python -m build_engine " + " ".join(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return int(args.run(args) or 0)
    except OperatorError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename or args.command}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted: nothing half-built was left behind; run the same command to continue", file=sys.stderr)
        return INTERRUPTED
    return 1


if __name__ == "__main__":
    sys.exit(main())
