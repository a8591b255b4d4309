"""A command line whose mistakes are one line on stderr and exit code 2, not a page of usage."""

from __future__ import annotations

import argparse
from typing import NoReturn

EXIT_USAGE = 2
EXIT_NOT_FETCHED = 69  # sysexits.h's EX_UNAVAILABLE: what a command needs could not be downloaded


class Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message.removeprefix('argument ')}; --help lists the options\n")
