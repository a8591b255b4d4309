"""What goes wrong while planning, building or verifying an engine."""

from __future__ import annotations


class BuildError(Exception):
    """One line: what was wrong, the value, what to do. The command line prints it after ``error:`` and exits 1."""
