"""Prints what PIP_CONFIG_FILE becomes for pip: a file with its indexes, proxy and certificates, and what pip.conf says.

pip lets that file outweigh a virtual environment's pip.conf: `user = yes` or `target = ...` in it would move packages.
"""

from __future__ import annotations

import configparser
import os
import tempfile
from pathlib import Path

OURS = Path(__file__).with_name("pip.conf")
RESULT = Path(".venv-pip.conf")  # in the checkout, where `make` starts this


class _PipConfig(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        """pip takes `no_deps` and `--no-deps` for `no-deps`."""
        name = optionstr.lower().replace("_", "-")
        return name.removeprefix("--")


def effective(given: str) -> str:
    """The path that pip is to read. A file that is none, cannot be read or copied stays: pip says what is wrong."""
    settings = _PipConfig()
    try:
        if given == os.devnull or not settings.read(given):
            return given
        settings.read(OURS)
        descriptor, partial = tempfile.mkstemp(dir=".", prefix=RESULT.name)  # mode 600: an index may have a password
        with os.fdopen(descriptor, "w") as file:
            settings.write(file)
        Path(partial).replace(RESULT)
    except (OSError, ValueError, configparser.Error):
        return given
    return str(RESULT.resolve())


if __name__ == "__main__":
    print(effective(os.environ["PIP_CONFIG_FILE"]), end="")
