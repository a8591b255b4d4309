"""Prometheus text, read with ``prometheus_client``'s own parser: one reader for load tests, benchmarks and tests."""

from __future__ import annotations

from collections.abc import Iterable
from http.client import HTTPException

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from contract.direct_http import DIRECT

TIMEOUT_S = 5.0


def fetch(url: str, timeout: float = TIMEOUT_S) -> list[Sample]:
    """The samples at ``url``. Raises ``OSError`` without an answer and ``ValueError`` for any other text."""
    try:
        with DIRECT.open(url, timeout=timeout) as answer:  # the URL is the user's own server
            return parse(answer.read().decode("utf-8", "replace"))
    except HTTPException as error:  # a port that speaks something else
        raise OSError(f"no HTTP answer ({type(error).__name__})") from None


def parse(text: str) -> list[Sample]:
    """All samples in order. Raises ``ValueError`` when ``text`` is not in the exposition format."""
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def value_of(samples: Iterable[Sample], selector: str) -> float | None:
    """The sum over all samples that ``name`` or ``name{label=value,…}`` selects; ``None`` when there are none."""
    name, _, rest = selector.partition("{")
    wanted = dict(pair.replace('"', "").split("=") for pair in rest.rstrip("}").split(",") if pair)
    values = [s.value for s in samples if s.name == name and all(s.labels.get(k) == v for k, v in wanted.items())]
    return sum(values) if values else None
