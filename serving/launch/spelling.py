"""Guesses what a mistyped variable of `make` was meant to be. Runs on a bare Python, before set-up.

usage: python3 serving/launch/spelling.py NAME ...      the variables given on the command line

make passes variables that it does not know to the programs in their environment, so a name is refused only when it
resembles one of the Makefile's and is not a setting named in docs/.
"""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEAR = 0.8  # MODLE is as near to MODEL; PYTHONPATH is further from PYTHON


def readable(makefile: str) -> set[str]:
    """Variables that a user may give: all that the rules name, less what the Makefile itself works out."""
    rules = re.sub(r"^\t?@?#.*|  ## .*", "", makefile, flags=re.MULTILINE)
    own = set(re.findall(r"^ *([A-Z]\w*) :?= ", rules, flags=re.MULTILINE))
    return set(re.findall(r"\b[A-Z][A-Z0-9_]*\b", rules)) - own


def main(given: list[str]) -> str:
    known = readable((ROOT / "Makefile").read_text(encoding="utf-8"))
    unknown = [name for name in given if name not in known]
    if not unknown:
        return ""
    documents = "\n".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))
    ours = sorted(name for name in known if not name.startswith("OTEL_"))  # OpenTelemetry has more of its own
    for name in unknown:
        near = difflib.get_close_matches(name.upper(), ours, 1, NEAR)
        if near and not re.search(rf"\b{re.escape(name)}[`=]", documents):
            return f"{name}= is not a variable of this Makefile: did you mean {near[0]}=?"
    return ""


if __name__ == "__main__":
    print(main(sys.argv[1:]))
