"""The wait that Retry-After announces."""

from __future__ import annotations

from serving.gateway.core import triton_metrics


def test_retry_after_comes_from_the_queue() -> None:
    assert triton_metrics.wait_seconds(waiting=99, per_second=5) == 20
    assert triton_metrics.wait_seconds(waiting=0, per_second=50) == 1
    assert triton_metrics.wait_seconds(waiting=10_000, per_second=0.1) == triton_metrics.LONGEST
    assert triton_metrics.wait_seconds(waiting=5, per_second=0) == triton_metrics.UNKNOWN_RATE
    name = triton_metrics.FINISHED
    text = f'# TYPE {name} counter\n{name}{{x="1"}} 2\n{name}{{x="}} 2"}} 3\nother 0.5\n'
    found = triton_metrics.totals(text)
    assert found.pop(name) == 5.0 and len(found) == 4 and not any(found.values())
