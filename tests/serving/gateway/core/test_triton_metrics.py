"""The wait that Retry-After announces."""

from __future__ import annotations

from serving.gateway.core import triton_metrics


def test_retry_after_comes_from_the_queue() -> None:
    assert triton_metrics.wait_seconds(waiting=99, finished=50, over=10) == 20
    assert triton_metrics.wait_seconds(waiting=0, finished=500, over=10) == 1
    assert triton_metrics.wait_seconds(waiting=10_000, finished=1, over=10) == triton_metrics.LONGEST
    assert triton_metrics.wait_seconds(waiting=5, finished=0, over=10) == triton_metrics.UNKNOWN_RATE
    name = triton_metrics.FINISHED
    text = f'# TYPE {name} counter\n{name}{{x="1"}} 2\n{name}{{x="}} 2"}} 3\nother 0.5\n'
    assert triton_metrics.totals(text) == {name: 5.0, triton_metrics.WAITING: 0.0}
