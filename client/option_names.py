"""Errors in the words of ``Options``, whichever way the request went."""

from __future__ import annotations

import re

from contract.errors import ClientError, ServingError
from contract.fields import BY_OPTION, FIELDS

_NAME = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")  # what may be a tensor's name; no English word has an underscore
_HEAD = re.compile(r"\w*")


def _table() -> dict[str, str]:
    """Names of tensors and of OpenAI's fields -> the option's, where they differ."""
    guides = ("guided_json", "guided_regex", "guided_grammar", "structured_outputs")
    table = dict.fromkeys(guides, "guide") | {"response_format": "guide_type"}
    for field in FIELDS:
        option = field.option_name or (field.api_name if field.api_name in BY_OPTION else "")
        if option:
            table |= dict.fromkeys((*field.names, field.api_name or field.name), option)
    return {name: option for name, option in table.items() if name not in BY_OPTION}


OPTION_OF = _table()


def in_options(error: ClientError) -> ClientError:
    """``error``, with its ``field`` and its sentence in the names of ``Options``."""
    if isinstance(error, ServingError) and error.field:
        head, text = _HEAD.match(error.field)[0], str(error)  # type: ignore[index]  # it matches anything
        option = OPTION_OF.get(head, head)
        if text.startswith(head):
            text = option + text.removeprefix(head)
        error.args = (_NAME.sub(lambda name: OPTION_OF.get(name[0], name[0]), text),)
        error.field = option + error.field.removeprefix(head)
    return error
