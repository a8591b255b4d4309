"""schemathesis: requests made from the gateway's own OpenAPI schema, valid and not, never get a 5xx or a broken shape.

Driven by hand: schemathesis 4.32's own pytest collector does not run under pytest 9.2.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
)

from tests.conftest import Server

pytestmark = pytest.mark.triton
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
OPERATIONS = {
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/invocations": "POST",
    "/v1/responses": "POST",
    "/v1/messages": "POST",
    "/v1/messages/count_tokens": "POST",
    "/v1/responses/input_tokens": "POST",
    "/tokenize": "POST",
    "/detokenize": "POST",
    "/v1/models": "GET",
    "/v1/loads": "GET",
    "/load": "GET",
    "/version": "GET",
    "/tokenizer_info": "GET",
    "/ping": "GET",
    "/health": "GET",
    "/health/live": "GET",
    "/health/ready": "GET",
    "/health/generate": "GET",
    "/health_generate": "GET",
    "/metrics": "GET",
}
NAMED = {("GET", "/v1/models/{name}"), ("GET", "/v1/responses/{name}"), ("DELETE", "/v1/responses/{name}")}
LONGEST = 16  # tokens: a fuzzer's own max_tokens would keep the engine busy for minutes
WHOLE: dict[str, dict[str, Any]] = {  # good requests; a few generated fields replace or join theirs
    "/v1/chat/completions": {"model": "qwen", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": LONGEST},
    "/v1/completions": {"model": "qwen", "prompt": "Hi", "max_tokens": LONGEST},
    "/invocations": {"model": "qwen", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": LONGEST},
    "/v1/responses": {"model": "qwen", "input": "Hi", "max_output_tokens": LONGEST},
    "/v1/messages": {"model": "qwen", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": LONGEST},
    "/v1/messages/count_tokens": {"model": "qwen", "messages": [{"role": "user", "content": "Hi"}]},
    "/v1/responses/input_tokens": {"model": "qwen", "input": "Hi"},
    "/tokenize": {"model": "qwen", "prompt": "Hi"},
    "/detokenize": {"model": "qwen", "tokens": [1, 2, 3]},
}


@pytest.fixture(scope="module")
def api(server: Server) -> Any:
    return schemathesis.openapi.from_url(f"{server.gateway}/openapi.json")


def test_every_operation_of_the_schema_is_fuzzed(api: Any) -> None:
    found = {(operation.ok().method.upper(), operation.ok().path) for operation in api.get_all_operations()}
    assert found == NAMED | {(method, path) for path, method in OPERATIONS.items()}


def statuses(
    api: Any, path: str, mode: GenerationMode, examples: int, checks: list[Any], method: str = ""
) -> Counter[int]:
    """Sends ``examples`` generated requests; fails on the first that breaks a check."""
    operation = api[path][method or OPERATIONS[path]]
    seen: Counter[int] = Counter()

    @given(case=operation.as_strategy(generation_mode=mode), kept=st.integers(0, 2), dice=st.randoms())
    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    def send(case: Any, kept: int, dice: random.Random) -> None:
        if mode is GenerationMode.POSITIVE and path in WHOLE:
            names = dice.sample(sorted(case.body), min(kept, len(case.body)))
            case.body = WHOLE[path] | {name: case.body[name] for name in names if "max" not in name}
        response = case.call(timeout=30)
        seen[response.status_code] += 1
        case.validate_response(response, checks=checks)

    send()
    return seen


@pytest.mark.parametrize("path", OPERATIONS)
def test_valid_requests_get_no_server_error(api: Any, path: str) -> None:
    seen = statuses(api, path, GenerationMode.POSITIVE, 20 if path in WHOLE else 3, CHECKS)
    assert seen[200] > 0


@pytest.mark.parametrize(("method", "path"), sorted(NAMED))
def test_any_name_is_found_or_not(api: Any, method: str, path: str) -> None:
    seen = statuses(api, path, GenerationMode.POSITIVE, 3, CHECKS, method)
    assert set(seen) <= {200, 404}


@pytest.mark.parametrize("path", WHOLE)
def test_invalid_requests_are_refused(api: Any, path: str) -> None:
    seen = statuses(api, path, GenerationMode.NEGATIVE, 15, [*CHECKS, negative_data_rejection])
    assert sum(seen.values()) >= 10
