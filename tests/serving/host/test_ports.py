from __future__ import annotations

import socket
from pathlib import Path

import pytest

from serving.host import ports
from serving.host.ports import free_ports


def test_ports_are_different_and_out_of_the_kernels_reach() -> None:
    found = free_ports(20)
    assert len(set(found)) == 20
    assert max(found) < int(ports.KERNELS_OWN.read_text().split()[0])


def test_a_taken_port_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    (taken, free) = free_ports(2)
    monkeypatch.setattr(ports, "_outside_the_kernels_range", lambda: [taken, free])
    with socket.socket() as other:
        other.bind(("127.0.0.1", taken))
        assert free_ports(1) == [free]


def test_the_kernels_ports_serve_where_its_range_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "KERNELS_OWN", Path("/proc/there/is/none"))
    assert len(set(free_ports(3))) == 3
