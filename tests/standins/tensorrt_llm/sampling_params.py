import dataclasses
from typing import Any

from ._surface import default, section


def _make(name, fields, check):
    made = []
    for field, info in fields.items():
        init = "(init=False)" not in info["type"]
        made.append((field, Any, dataclasses.field(default=default(info["default"]), init=init, kw_only=True)))
    return dataclasses.make_dataclass(name, made, namespace={"__post_init__": check})


def _check_guide(self):
    given = [self.json, self.regex, self.grammar, self.json_object or None, self.structural_tag]
    if sum(value is not None for value in given) > 1:
        raise ValueError("Only one guide can be used for a request")


def _check_sampling(self):
    if self.top_p is not None and not 0 <= self.top_p <= 1:
        raise ValueError(f"require 0 <= top_p <= 1, got top_p={self.top_p}")
    if self.top_p == 0:
        raise ValueError("top_p=0 is currently disallowed in the backend")
    if self.top_k is not None and self.top_k < 0:
        raise ValueError(f"require top_k >= 0, got top_k={self.top_k}")
    if self.temperature is not None and self.temperature < 0:
        raise ValueError(f"require temperature >= 0, got {self.temperature}")
    self.pad_id = self.end_id if self.pad_id is None else self.pad_id


SamplingParams = _make("SamplingParams", section("SamplingParams"), _check_sampling)
GuidedDecodingParams = _make("GuidedDecodingParams", section("GuidedDecodingParams"), _check_guide)
