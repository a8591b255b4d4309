"""``python -m loadtest`` (see ``cli``)."""

from __future__ import annotations

import contract.program

import sys

from contract import standard_streams
from loadtest.cli import main

if __name__ == "__main__":
    standard_streams.lenient()
    sys.exit(main())
