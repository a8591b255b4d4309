"""Typed reading of a request's tensors, by the rows of ``contract/fields.py``. Every refusal names the field, the value
and the remedy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract import engine_dir, ranges
from contract.errors import InvalidRequest, shown
from contract.fields import BY_NAME, FIELD_OF_TENSOR, FIELDS, Bound, Field

PROMPTS = ("text_input", "messages", "input_ids")  # the inputs that hold one; a request brings exactly one
Tensors = Mapping[str, Sequence[Any]]  # one request: a tensor's name -> its flat list of values, bytes for STRING


@dataclass(frozen=True, slots=True)
class CheckpointDefaults:
    """What reading a request needs of the checkpoint: its vocabulary, end ids and sampling defaults."""

    vocab_size: int
    eos_token_ids: tuple[int, ...]
    defaults: Mapping[str, Any]

    @classmethod
    def load(cls, generation_config: Path, vocab_size: int) -> CheckpointDefaults:
        raw: dict[str, Any] = json.loads(generation_config.read_text(encoding="utf-8"))
        defaults = {f.name: f.default if raw.get(f.name) is None else raw[f.name] for f in FIELDS if f.checkpoint}
        if not raw.get("do_sample", False):
            defaults["temperature"] = 0.0
        return cls(vocab_size, engine_dir.end_ids(generation_config.parent), defaults)

    def check(self) -> None:
        """Raises ``ValueError`` for a default that a request could not ask for."""
        for field in (f for f in FIELDS if f.checkpoint):
            value = self.defaults[field.name]
            low, high = self.bound(field.low or 0), self.bound(1 if field.high is None else field.high)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            whole = field.tensor != "INT32" or isinstance(value, int)
            if not number or not whole or not low <= value <= high or (field.above_low and value == low):
                raise ValueError(f"{field.name} is {shown(value)}, not a number from {low:g} to {high:g}")

    def bound(self, bound: Bound) -> float:
        return self.vocab_size - 1 if bound == "last_token_id" else bound


class Inputs:
    """One request's inputs. What is absent reads as its default; what is out of range raises ``InvalidRequest``.

    The names are those of the table's rows; a tensor that came under an alias is found under its row's name, and errors
    name it as the caller did.
    """

    def __init__(self, tensors: Tensors, checkpoint: CheckpointDefaults) -> None:
        self._checkpoint = checkpoint
        self._values: dict[str, Sequence[Any]] = {}
        self._sent_as: dict[str, str] = {}
        for tensor, values in tensors.items():
            if len(values) == 0:
                if FIELD_OF_TENSOR[tensor].filled:
                    raise InvalidRequest(tensor, "the list is empty; give at least one, or leave it out")
                continue
            name = FIELD_OF_TENSOR[tensor].name
            if name in self._values:
                raise InvalidRequest(tensor, f"given beside {self._sent_as[name]}, which means the same; send one")
            self._values[name], self._sent_as[name] = values, tensor

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def value(self, field: Field) -> Any:
        """The field's value in its own Python type."""
        if field.tensor == "STRING":
            return self.texts(field.name) if field.repeated else self.text(field.name)
        if field.tensor == "BOOL":
            return self.flag(field.name)
        if field.tensor == "FP32":
            return self.numbers(field.name) if field.repeated else self.number(field.name)
        return self.integers(field.name) if field.repeated else self.integer(field.name)

    def text(self, name: str) -> str:
        if name not in self:
            return str(BY_NAME[name].absent)
        text = self._decoded(name, self._one(name))
        self._refuse(name, ranges.length(BY_NAME[name], text))
        return text

    def texts(self, name: str) -> tuple[str, ...]:
        """Non-empty strings; an empty one is left out, as NVIDIA's clients send [""] for none."""
        decoded = (self._decoded(name, value) for value in self._values.get(name, ()))
        values = tuple(text for text in decoded if text)
        self._refuse(name, ranges.count(BY_NAME[name], values))
        for value in values:
            self._refuse(name, ranges.length(BY_NAME[name], value))
        return values

    def flag(self, name: str) -> bool:
        return bool(self._one(name)) if name in self else bool(BY_NAME[name].absent)

    def integer(self, name: str) -> int:
        if name not in self:
            return int(self._absent(name))
        value = int(self._one(name))
        self._refuse(name, ranges.integer(value, self._range(name)))
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """The integers of a list."""
        values = [int(value) for value in self._values.get(name, ())]
        self._refuse(name, ranges.count(BY_NAME[name], values))
        low, high = self._range(name)
        if values and not low <= min(values) <= max(values) <= high:
            wrong = next(value for value in values if not low <= value <= high)
            ids = BY_NAME[name].high == "last_token_id"
            problem = "is not a token id; ids lie" if ids else "is out of range; give integers"
            raise self._refusal(name, f"{wrong} {problem} between {low} and {high}")
        return tuple(values)

    def number(self, name: str) -> float:
        if name not in self:
            return float(self._absent(name))
        value = float(self._one(name))
        self._refuse(name, ranges.number(value, self._range(name), BY_NAME[name].above_low))
        # FP32 carries 0.1 as 0.10000000149; the caller meant the short one
        return float(f"{value:.7g}")

    def numbers(self, name: str) -> tuple[float, ...]:
        values = tuple(float(value) for value in self._values.get(name, ()))
        self._refuse(name, ranges.numbers(values, self._range(name)))
        return values

    def _refuse(self, name: str, problem: str) -> None:
        if problem:
            raise self._refusal(name, problem)

    def _refusal(self, name: str, problem: str) -> InvalidRequest:
        return InvalidRequest(self._sent_as[name], problem)

    def _absent(self, name: str) -> Any:
        return self._checkpoint.defaults.get(name, BY_NAME[name].absent)

    def _range(self, name: str) -> tuple[float, float]:
        field, bound = BY_NAME[name], self._checkpoint.bound
        low = -math.inf if field.low is None else bound(field.low)
        return low, math.inf if field.high is None else bound(field.high)

    def _one(self, name: str) -> Any:
        values = self._values[name]
        if len(values) != 1:
            raise self._refusal(name, f"expected one value, got {len(values)}; send a tensor of shape [1, 1]")
        return values[0]

    def _decoded(self, name: str, value: Any) -> str:
        if isinstance(value, str):
            return value
        try:
            return bytes(value).decode("utf-8")
        except UnicodeDecodeError as error:
            problem = f"byte {error.start} of {shown(bytes(value))} is not UTF-8; send text encoded as UTF-8"
            raise self._refusal(name, problem) from None
