"""Numbers in a refusal as the caller wrote them: reading a body makes a float of 10**30, of which a tensor holds seven
digits."""

from __future__ import annotations

import re

from contract.errors import cut

_NUMERAL = r"-?\d[\d.eE+-]*"


def as_sent(message: str, field: str, body: bytes) -> str:
    """The ``message`` about ``field``, with the number that it begins with as it stands in ``body``."""
    shown = re.match(rf"{re.escape(field)}: ({_NUMERAL})(?!\S)", message)
    key = re.sub(r"\[\d+\]$", "", field).rpartition(".")[2]
    if shown is None or not key:
        return message
    # No text can look like this: the quotes in it have a backslash each.
    member = rf'"{re.escape(key)}"\s*:\s*({_NUMERAL}|\[[\d.eE+,\s-]*)'
    for value in re.findall(member.encode(), body):
        for numeral in re.findall(_NUMERAL, value.decode()):
            if _rounded(numeral) == _rounded(shown[1]):
                return message[: shown.start(1)] + cut(numeral) + message[shown.end(1) :]
    return message


def _rounded(numeral: str) -> str:
    """To what a tensor holds."""
    try:
        return f"{float(numeral):.7g}"
    except ValueError:
        return numeral
