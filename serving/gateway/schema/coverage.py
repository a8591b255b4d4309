"""The tables of docs/gateway.md, made from the request classes by ``make fields``. A test fails when they differ."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields

import orjson

from contract.paths import ROOT
from serving.gateway.schema.others import FIXED, REFUSED
from serving.gateway.schema.protocol import ChatRequest, CompletionRequest, Shared
from serving.gateway.schema.responses_protocol import ResponsesRequest
from serving.gateway.settings import GatewaySettings

HEAD = "| field | here | OpenAI | vLLM | note |\n|---|---|---|---|---|\n"
DOCUMENT = ROOT / "docs" / "gateway.md"


def field_table() -> str:
    rows = sorted(_served()) + sorted(_fixed()) + sorted(_refused())
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def responses_table() -> str:
    """Fields of /v1/responses; the common ones that work as in chat are one row."""
    own = {name: info for name, info in ResponsesRequest.model_fields.items() if name not in Shared.model_fields}
    rows = []
    for name, info in sorted(own.items()):
        extra = info.json_schema_extra
        assert isinstance(extra, dict), name
        rows.append((f"`{name}`", "yes", _mark(extra["x-openai"]), _mark(extra["x-vllm"]), info.description or ""))
    same = ", ".join(f"`{name}`" for name in sorted(Shared.model_fields))
    rows.append((same, "yes", "", "", "as in chat"))
    for name, fixed in ResponsesRequest.others.items():
        values = " or ".join(f"`{orjson.dumps(v).decode()}`" for v in fixed.allowed)
        rows.append(
            (f"`{name}`", f"only {values}" if values else "refused", _mark(fixed.openai), _mark(fixed.vllm), fixed.why)
        )
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _mark(value: object) -> str:
    return "yes" if value else "-"


def _served() -> Iterator[tuple[str, ...]]:
    chat, completion = ChatRequest.model_fields, CompletionRequest.model_fields
    for name in {**chat, **completion}:
        info = chat.get(name) or completion[name]
        extra = info.json_schema_extra
        assert isinstance(extra, dict), name
        where = "yes" if name in chat and name in completion else "chat" if name in chat else "completions"
        yield f"`{name}`", where, _mark(extra["x-openai"]), _mark(extra["x-vllm"]), info.description or ""


def _fixed() -> Iterator[tuple[str, ...]]:
    for name, fixed in FIXED.items():
        values = " or ".join(f"`{str(v).lower() if isinstance(v, bool) else v}`" for v in fixed.allowed)
        yield f"`{name}`", f"only {values}", _mark(fixed.openai), _mark(fixed.vllm), fixed.why


def _refused() -> Iterator[tuple[str, ...]]:
    for name, refused in REFUSED.items():
        yield f"`{name}`", "refused", _mark(refused.openai), _mark(refused.vllm), refused.why


def settings_table() -> str:
    rows = [
        f"| `{f.metadata['env']}` | `{f.default}` | {f.metadata['about']} |\n" if f.default != "" else
        f"| `{f.metadata['env']}` | | {f.metadata['about']} |\n"
        for f in fields(GatewaySettings)
    ]  # fmt: skip
    return "| variable | default | meaning |\n|---|---|---|\n" + "".join(rows)


TABLES = {"fields": field_table, "responses": responses_table, "settings": settings_table}


def filled(text: str) -> str:
    """The document with its tables as the code has them, each between ``<!-- NAME -->`` and ``<!-- /NAME -->``."""
    for name, table in TABLES.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, _, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}<!-- {name} -->\n{table()}<!-- /{name} -->{after}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{DOCUMENT} is up to date\n")
