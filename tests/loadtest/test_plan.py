"""Where a load test's plan says the server is."""

from __future__ import annotations

import pytest

from loadtest.errors import LoadtestError
from loadtest.plan import plan_from


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
