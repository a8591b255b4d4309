"""An argument parser that reports a mistake in one line on stderr (exit code 2), and Ctrl-C in one line too."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NoReturn

EXIT_USAGE = 2
NOT_A_NUMBER = re.compile(r"invalid (int|float) value: (.*)")  # argparse's words, which are Python's
NO_VALUE = "it needs a value, and one that begins with - would be an option"  # argparse: "expected one argument"
HOME = re.compile(r"^(--[\w-]+=|)~/")
EXIT_NOT_FETCHED = 69  # sysexits.h's EX_UNAVAILABLE: what a command needs could not be downloaded


class Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        problem = NOT_A_NUMBER.sub(_not_a_number, message.removeprefix("argument "))
        problem = problem.replace("expected one argument", NO_VALUE)
        self.exit(EXIT_USAGE, f"{self.prog}: {problem}; --help lists the options\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """From here on a Ctrl-C that the program does not handle is one line. Its exit status stays the signal's.

        ~/ is the home: zsh, dash and whatever reads quoted words leave it in ``make serve ENGINE=~/mine``."""
        if sys.excepthook is sys.__excepthook__:
            sys.excepthook = self._uncaught
        given = [HOME.sub(_at_home, word, count=1) for word in (sys.argv[1:] if args is None else args)]
        parsed: argparse.Namespace = super().parse_args(given, namespace)
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)  # until here it ended imports without a traceback
        return parsed

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write(f"{self.prog}: interrupted\n")
        else:
            sys.__excepthook__(kind, error, trace)


def _at_home(found: re.Match[str]) -> str:
    return found[1] + os.path.expanduser("~/")  # noqa: PTH111 - Path's fails where there is no home


def _not_a_number(found: re.Match[str]) -> str:
    return f"{found[2]} is not a {'whole number' if found[1] == 'int' else 'number'}"
