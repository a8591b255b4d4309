"""Names fields in errors as ``Options`` does, whichever transport the request took."""

from __future__ import annotations

import re

from contract.errors import ClientError, ServingError
from contract.fields import BY_OPTION, FIELDS

_NAME = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")  # what may be a tensor's name; no English word has an underscore
_HEAD = re.compile(r"\w*")
_KIND = re.compile(r"guide(?:_type)? \w+(?=:)")  # a field and its value


def _table() -> dict[str, str]:
    """Names of tensors and of OpenAI's fields -> the option's, where they differ."""
    guides = ("guided_json", "guided_regex", "guided_grammar", "structured_outputs")
    table = dict.fromkeys(guides, "guide") | {"response_format": "guide_type"}
    table |= {"text_input": "prompt", "input_ids": "prompt"}
    for field in FIELDS:
        option = field.option_name or (field.api_name if field.api_name in BY_OPTION else "")
        if option:
            table |= dict.fromkeys((*field.names, field.api_name or field.name), option)
    return {name: option for name, option in table.items() if name not in BY_OPTION}


OPTION_OF = _table()


def in_options(error: ClientError, guide_type: str = "", scores: str = "logprobs") -> ClientError:
    """``error``, with its ``field`` and its sentence in the names of ``Options``. ``guide_type``: the request's.
    ``scores``: the option that ``logprobs`` stood for."""
    if isinstance(error, ServingError) and error.field:
        head, text = _HEAD.match(error.field)[0], str(error)  # type: ignore[index]  # it matches anything
        option, path = (OPTION_OF | {"logprobs": scores}).get(head, head), error.field.removeprefix(head)
        if option in ("guide", "guide_type"):  # OpenAI has a field for each type
            path, text = "", option + text.removeprefix(error.field)
            if kind := _KIND.match(text):
                option = "guide_type"
                text = f"guide_type {guide_type}{text.removeprefix(kind[0])}"
        elif text.startswith(head):
            text = option + text.removeprefix(head)
        error.args = (_NAME.sub(lambda name: OPTION_OF.get(name[0], name[0]), text),)
        error.field = option + path
    return error
