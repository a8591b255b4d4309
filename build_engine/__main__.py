"""``python -m build_engine COMMAND``: a command is a module with ``add_parser(sub)`` and ``run(args)``."""

from __future__ import annotations

import contract.program

import argparse
import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from contract import standard_streams
from contract.arguments import EXIT_NOT_FETCHED, Arguments
from contract.errors import NotFetched, OperatorError
from serving.host.signals import Terminal

COMMANDS = (
    "build_engine.plan.cli",
    "build_engine.tensorrt_llm.preflight",
    "build_engine.verify.gate",
    "build_engine.build",
    "build_engine.synthetic.simulated",
    "build_engine.synthetic.checkpoint",
)
INTERRUPTED = 130  # the shell's code for Ctrl-C
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
    try:
        with _interruptible():
            return int(args.run(args) or 0)
    except OperatorError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_NOT_FETCHED if isinstance(error, NotFetched) else 1
    except OSError as error:
        print(f"error: {error.filename or args.command}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt as interrupt:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print("interrupted: nothing half-built was left behind; run the same command to continue", file=sys.stderr)
        return interrupt.code if isinstance(interrupt, Interrupted) else INTERRUPTED
    return 1


class Interrupted(KeyboardInterrupt):
    """``code``: what a shell says of a process that the signal ended."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal raise ``Interrupted``, once: another would interrupt the cleaning up.

    A signal that is ignored stays ignored (``nohup``)."""

    def interrupt(number: int, _: object) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        caught.append(Interrupted(number))
        raise caught[0]

    caught: list[Interrupted] = []
    heard = [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, interrupt) for each in heard}
    try:
        yield
    except Exception as error:  # a library loaded just then makes an ImportError of it
        if caught:
            raise caught[0] from error
        raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler or signal.SIG_DFL)


if __name__ == "__main__":
    standard_streams.lenient()
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        Terminal().when_closed(signal.SIGHUP)
    sys.exit(main())
