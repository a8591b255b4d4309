"""Writes what is derived from ``contract/fields.py`` into the files that need it as text: ``make fields``.

Each derived part stands between two comment lines, ``NAME: begin`` and ``NAME: end``. A test fails when a file differs
from what would be written, so nothing is edited there by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from contract.fields import FIELDS, PYTHON_TYPES, Api, Endpoints, Field, Option
from contract.paths import ROOT

INPUT = '  {{ name: "{name}" data_type: TYPE_{tensor} dims: [{dims}] optional: true{extra} }}'


def _inputs(extra: str = "") -> str:
    lines = (
        INPUT.format(name=name, tensor=field.tensor, dims=-1 if field.repeated else 1, extra=extra)
        for field in FIELDS
        for name in field.names
    )
    return "input [\n" + ",\n".join(lines) + "\n]\n"


def ensemble_inputs() -> str:
    return _inputs()


def tokenizer_inputs() -> str:
    """Ragged: requests of one batch bring lists of different lengths, and not all bring every input."""
    return _inputs(" allow_ragged_batch: true")


def input_maps() -> str:
    names = (name for field in FIELDS for name in field.names)
    return "".join(f'      input_map {{ key: "{name}" value: "{name}" }}\n' for name in names)


def settings() -> str:
    """The scalar settings of ``Sampling``."""
    rows = (f for f in FIELDS if f.sampling)
    return "".join(f"    {f.name}: {PYTHON_TYPES[f.tensor]} = {_literal(f.absent)}\n" for f in rows)


def options() -> str:
    return "".join(_option(field, field.option) for field in FIELDS if field.option)


def _option(field: Field, option: Option) -> str:
    kind = PYTHON_TYPES[field.tensor]
    plain = f"Sequence[{kind}]" if field.repeated else kind if option.default is not None else f"{kind} | None"
    return f"    {field.option_name}: {option.annotation or plain} = {_literal(option.default)}\n"


def api_fields(endpoints: Endpoints) -> str:
    return "".join(_api_field(field, field.api) for field in FIELDS if field.api and field.api.endpoints == endpoints)


def _api_field(field: Field, api: Api) -> str:
    kind = PYTHON_TYPES[field.tensor]
    annotation = api.annotation or (f"list[{kind}] | None" if field.repeated else f"{kind} | None")
    note, openai = _literal(_note(field, api)), ", openai=True" if api.openai else ""
    line = f"    {field.api_name}: {annotation} = note({note}{openai})\n"
    if len(line) <= 121:  # as ruff formats it
        return line
    return f"    {field.api_name}: {annotation} = note(\n        {note}{openai}\n    )\n"


def _note(field: Field, api: Api) -> str:
    parts = [api.note or field.about]
    if field.checkpoint:
        parts.append("default: generation_config.json")
    if field.capability:
        parts.append("needs engine support")
    return "; ".join(parts)


def _literal(value: object) -> str:
    return '"' + value.replace('"', '\\"') + '"' if isinstance(value, str) else repr(value)


def table() -> str:
    """One line per input, with its names everywhere."""
    head = (
        "| input | type | default | range | client `Options` | OpenAI API | meaning |\n|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(_row(field) for field in FIELDS)


def _row(f: Field) -> str:
    cells = (
        " ".join(f"`{name}`" for name in f.names), f.tensor + (" list" if f.repeated else ""), _default(f), _range(f),
        f"`{f.option_name}`" if f.option else "", f"`{f.api_name}`" if f.api else "",
        f.about + ("; needs engine support" if f.capability else ""),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def _default(f: Field) -> str:
    if f.checkpoint:
        return "generation_config.json"
    return "" if f.default in (None, (), "") else f"`{str(f.default).lower()}`"


def _range(f: Field) -> str:
    names = {"last_token_id": "last token id", 2**31 - 1: "2^31 - 1",
             1 - 2**31: "1 - 2^31", 2**64 - 1: "2^64 - 1"}  # fmt: skip
    if f.low is None or f.high is None:
        return ""
    low, high = names.get(f.low, str(f.low)), names.get(f.high, str(f.high))
    return f"above {low}, at most {high}" if f.above_low else f"{low} to {high}"


PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "model_repository/qwen/config.pbtxt": {"inputs": ensemble_inputs, "input maps": input_maps},
    "model_repository/tokenizer/config.pbtxt": {"inputs": tokenizer_inputs},
    "contract/sampling.py": {"settings": settings},
    "client/types.py": {"options": options},
    "serving/gateway/schema/protocol.py": {
        "shared fields": lambda: api_fields("all"),
        "common fields": lambda: api_fields("chat and completions"),
        "chat fields": lambda: api_fields("chat"),
    },
    "docs/fields.md": {"fields": table},
}


def filled(text: str, parts: dict[str, Callable[[], str]]) -> str:
    """``text`` with each part as the table has it. Raises ``ValueError`` for a part whose two marks are not there."""
    for name, make in parts.items():
        marked = re.compile(rf"^([^\n]*{name}: begin[^\n]*\n).*?^([^\n]*{name}: end)", re.DOTALL | re.MULTILINE)
        found = marked.findall(text)
        if len(found) != 1:
            raise ValueError(f"{name}: {len(found)} places are marked with it; one is expected")
        text = marked.sub(found[0][0] + make().replace("\\", r"\\") + found[0][1], text)
    return text


def write(root: Path) -> None:
    for name, parts in PARTS.items():
        file = root / name
        file.write_text(filled(file.read_text(encoding="utf-8"), parts), encoding="utf-8")


if __name__ == "__main__":
    write(ROOT)
    sys.stdout.write(f"up to date with contract/fields.py: {', '.join(PARTS)}\n")
