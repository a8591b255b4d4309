"""The scenarios by name, and a user's own: a TOML file that starts from one of them, a trace, or a dataset."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from contract import user_text
from loadtest.errors import LoadtestError
from loadtest.lengths import parse_length
from loadtest.scenarios import burst, cancel, chat, code, dataset, mixed, prefix, summarize, trace
from loadtest.scenarios.base import Scenario, ScenarioSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCENARIOS: dict[str, Callable[[ScenarioSettings], Scenario]] = {
    "chat": chat.create,
    "summarize": summarize.create,
    "code": code.create,
    "mixed": mixed.create,
    "burst": burst.create,
    "cancel": cancel.create,
    "prefix": prefix.create,
    "trace": trace.create,
}
FILES = "a .toml file, a trace (.jsonl, .csv) or a dataset (.jsonl, .json)"
KEYS = (
    "base", "language", "input_tokens", "output_tokens", "turns", "cancel_share", "think_s", "prefix_tokens",
    "prefixes", "file",
)  # fmt: skip
TIMED = ("output_tokens", "turns", "think_s")


def load_scenario(text: str, settings: ScenarioSettings) -> Scenario:
    """``text`` is a name, a ``.toml`` file, a trace or a dataset. Raises ``LoadtestError``."""
    if text in SCENARIOS:
        return SCENARIOS[text](settings)
    if text.endswith(".toml"):
        return _from_file(Path(text), settings)
    if text.endswith((".json", ".jsonl", ".csv")):
        return _recorded(replace(settings, extra={"file": text}))
    raise LoadtestError(f"scenario: no scenario {text!r}: use {', '.join(SCENARIOS)}, {FILES}")


def _recorded(settings: ScenarioSettings) -> Scenario:
    """What has times is a trace. What the file itself says cannot be set as well."""
    path = Path(settings.extra["file"])
    timed = not dataset.has_no_times(path)
    for name in ("input_tokens", "cancel_share", "prefix_tokens", "prefixes", *(TIMED if timed else ())):
        if getattr(settings, name) is not None:
            raise LoadtestError(f"{name.replace('_', '-')}: {path} is recorded and has its own: leave it out")
    return trace.create(settings) if timed else dataset.create(settings)


def _from_file(path: Path, settings: ScenarioSettings) -> Scenario:
    try:
        data = tomllib.loads(user_text.read(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LoadtestError(f"scenario: cannot read {path} ({error})") from None
    unknown = sorted(set(data) - set(KEYS))
    if unknown:
        raise LoadtestError(f"scenario: {path} has unknown key {unknown[0]!r}: use {', '.join(KEYS)}")
    base = data.pop("base", "chat")
    if base not in SCENARIOS:
        raise LoadtestError(f"scenario: {path}: base = {base!r} is not one of {', '.join(SCENARIOS)}")
    applied = _apply(data, settings, path)
    return _recorded(applied) if applied.extra else SCENARIOS[base](applied)


def _apply(data: dict[str, Any], settings: ScenarioSettings, path: Path) -> ScenarioSettings:
    """The file's settings under the command line's, which win."""

    def number(key: str, low: float, high: float) -> Any:
        value = data.get(key)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high
        ):
            raise LoadtestError(f"scenario: {path}: {key} = {value!r} must be a number from {low:g} to {high:g}")
        return value

    def length(key: str) -> Any:
        return parse_length(str(data[key]), f"scenario: {path}: {key}") if key in data else None

    def whole(key: str, high: float) -> int | None:
        value = number(key, 1, high)
        return None if value is None else int(value)

    extra = {"file": str(path.parent / str(data["file"]))} if "file" in data else settings.extra
    return replace(
        settings,
        language=str(data.get("language", settings.language)),
        input_tokens=settings.input_tokens or length("input_tokens"),
        output_tokens=settings.output_tokens or length("output_tokens"),
        turns=whole("turns", 100),
        cancel_share=number("cancel_share", 0, 1),
        think_s=number("think_s", 0, 3600),
        prefix_tokens=whole("prefix_tokens", 1_000_000),
        prefixes=whole("prefixes", 1_000_000),
        extra=extra,
    )
