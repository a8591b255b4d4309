"""A command line whose mistakes are one line on stderr and exit code 2, not a page of usage."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

EXIT_USAGE = 2
NOT_A_NUMBER = re.compile(r"invalid (int|float) value: (.*)")  # argparse's words, which are Python's
EXIT_NOT_FETCHED = 69  # sysexits.h's EX_UNAVAILABLE: what a command needs could not be downloaded


class Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        problem = NOT_A_NUMBER.sub(_not_a_number, message.removeprefix("argument "))
        self.exit(EXIT_USAGE, f"{self.prog}: {problem}; --help lists the options\n")


def _not_a_number(found: re.Match[str]) -> str:
    return f"{found[2]} is not a {'whole number' if found[1] == 'int' else 'number'}"
