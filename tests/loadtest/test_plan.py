"""Where a load test's plan says the server is."""

from __future__ import annotations

import pytest

from loadtest.errors import LoadtestError
from loadtest.plan import RunPlan, plan_from


@pytest.mark.parametrize(
    ("host", "name", "url"),
    [
        ("llm.example", "llm.example", "http://llm.example:8002/metrics"),
        ("http://127.0.0.1/", "127.0.0.1", "http://127.0.0.1:8002/metrics"),
        ("::1", "::1", "http://[::1]:8002/metrics"),
        ("[::1]", "::1", "http://[::1]:8002/metrics"),
        ("https://[::1]", "::1", "http://[::1]:8002/metrics"),
    ],
)
def test_a_host_by_name_or_address(host: str, name: str, url: str) -> None:
    plan = plan_from({"host": host})
    assert (plan.name, plan.url(plan.metrics_port, "/metrics")) == (name, url)
    assert plan.secure == host.startswith("https")


@pytest.mark.parametrize(
    ("url", "models"),
    [
        ("http://127.0.0.1:11434/v1", "http://127.0.0.1:11434/v1/models"),
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434/v1/models"),
        ("https://llm.example/api/v1/", "https://llm.example:443/api/v1/models"),
        ("http://127.0.0.1:8000/v1/chat/completions", "http://127.0.0.1:8000/v1/models"),
        ("http://[::1]:8000/v1beta/openai", "http://[::1]:8000/v1beta/openai/models"),
        (" llm.example ", "http://llm.example:8080/v1/models"),
    ],
)
def test_over_sse_a_base_url_is_a_target(url: str, models: str) -> None:
    plan = plan_from({"host": url, "transport": "sse"})
    assert plan.url(plan.gateway_port, f"{plan.base}/models", secure=plan.secure) == models
    assert RunPlan(**plan.to_dict()).base == plan.base, "it travels to the workers"


@pytest.mark.parametrize(
    ("requests", "users", "count", "shares"),
    [(20, 4, 2, [10, 10]), (20, 3, 2, [13, 7]), (7, 1, 3, [7, 0, 0]), (2, 9, 1, [2])],
)
def test_workers_share_a_number_of_requests_as_they_share_users(
    requests: int, users: int, count: int, shares: list[int]
) -> None:
    plan = plan_from({"requests": requests, "users": users})
    assert [plan.share(k, count) for k in range(count)] == shares
    assert plan_from({"users": users}).share(0, 1) is None and plan_from({"requests": 1, "rate": 1}).share(0, 1) is None


def test_a_number_of_requests_needs_no_duration_and_takes_one() -> None:
    plan = plan_from({"requests": "100", "rate": "0.01", "warmup": "0"})
    assert len(plan.schedule()) == 100 and plan.schedule()[-1] > 3600
    assert 0 < len(plan_from({"requests": "100", "rate": "1", "warmup": "0", "duration": "9s"}).schedule()) < 100
    assert len(plan_from({"requests": "9", "scenario": "trace"}).schedule()) == 9


@pytest.mark.parametrize("seed", [-1, 2**53, "x"])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(LoadtestError, match=r"^seed: "):
        plan_from({"seed": seed})


@pytest.mark.parametrize("host", ["http://", "ftp://llm.example"])
def test_a_host_that_is_none(host: str) -> None:
    with pytest.raises(LoadtestError, match="is not a host name"):
        plan_from({"host": host})


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("http://127.0.0.1:9080", "has a port: write HOST=http://127.0.0.1 with GATEWAY_PORT=9080 or GRPC_PORT=9080"),
        ("llm.example:1", "write HOST=llm.example with GATEWAY_PORT=1"),
        ("https://[::1]:99999/", r"write HOST=https://\[::1\] with"),
        ("https://llm.example/v1", "is more than a host: write https://llm.example$"),
        ("http://me@llm.example", "write http://llm.example$"),
    ],
)
def test_what_a_host_says_is_never_dropped(host: str, said: str) -> None:
    """A run would measure the server at the default port and pass."""
    with pytest.raises(LoadtestError, match=said):
        plan_from({"host": host})
