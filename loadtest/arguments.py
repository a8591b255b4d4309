"""Values of options, as argparse types: each mistake is one line that says what to write."""

from __future__ import annotations

import argparse
import math

from contract.arguments import Arguments

__all__ = ["Arguments", "count", "percent", "port", "positive", "share"]


def count(text: str) -> int:
    """A whole number of at least 1, as an argparse ``type``."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def positive(text: str) -> float:
    """A finite number above 0, as an argparse ``type``."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def percent(text: str) -> float:
    """``1`` → 0.01, as an argparse ``type``."""
    value = positive(text)
    if value >= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not below 100 percent")
    return value / 100


def share(text: str) -> float:
    """``5%`` → 0.05, as an argparse ``type``."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not text.endswith("%") or not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share: write e.g. 5%")
    return value


def port(text: str) -> int:
    """A TCP port, as an argparse ``type``."""
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 1 to 65535")
    return int(text)
