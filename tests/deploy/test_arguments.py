"""`make cluster`: what makes no sense is one line that says what to do, before anything starts."""

from __future__ import annotations

import socket

import pytest

from deploy.arguments import check_ports, parse
from deploy.replicas import LOOK_SECONDS
from serving.host.ports import free_ports
from serving.launch import config
from serving.launch.config import LaunchError


@pytest.mark.parametrize(
    "replicas",
    ["0", "65", "1000", "-1", "3.5", "abc", "", "http://", "a:8080,b:8080", "https://a:8080", "http://a:99999", "http://a:0",
     "http://a:8080;http://b:8080", "http://a:8080,,http://b:8080", "http://a:8080/v1", "http://[::1"],
)  # fmt: skip
def test_replicas_that_are_neither_a_number_nor_urls(replicas: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([f"--replicas={replicas}"])
    error = capsys.readouterr().err
    assert f"REPLICAS={replicas!r}: give a number from 1 to 64, or URLs such as" in error and error.count("\n") == 1


def test_a_replica_named_twice(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--replicas=http://a:8080,http://a:8080/"])
    assert "http://a:8080 is there twice" in capsys.readouterr().err


def test_urls_and_their_ports() -> None:
    chosen = parse(["--replicas", "http://a:8080/, http://[::1]:8081", "--replica-grpc-port", "1,2"])
    assert (chosen.count, chosen.urls, chosen.grpc_ports) == (0, ["http://a:8080", "http://[::1]:8081"], [1, 2])


@pytest.mark.parametrize("ports", ["0", "1,2,3", "x", "70000"])
def test_grpc_ports_of_replicas(ports: str) -> None:
    with pytest.raises(SystemExit):
        parse(["--replicas", "http://a:1,http://b:1", "--replica-grpc-port", ports])


def test_replicas_are_lame_ducks_unless_told_otherwise() -> None:
    assert config.parse(parse(["--replicas=2"]).serving).lame_duck == LOOK_SECONDS
    assert config.parse(parse(["--replicas=2", "--", "--lame-duck=9"]).serving).lame_duck == 9


@pytest.mark.parametrize(("flag", "variable"), [("--port", "GATEWAY_PORT"), ("--grpc-port", "GRPC_PORT")])
def test_a_port_that_is_no_number(capsys: pytest.CaptureFixture[str], flag: str, variable: str) -> None:
    with pytest.raises(SystemExit):
        parse([flag, "abc"])
    assert f"{variable}=abc is not a whole number: give one, or leave it out" in capsys.readouterr().err


def test_ports_of_the_routers() -> None:
    one, other = map(str, free_ports(2))
    check_ports(parse(["--port", one, "--grpc-port", other]))
    with pytest.raises(LaunchError, match=f"are both {one}; give each its own"):
        check_ports(parse(["--port", one, "--grpc-port", one]))
    with pytest.raises(LaunchError, match="GRPC_PORT=70000 is out of range"):
        check_ports(parse(["--port", one, "--grpc-port", "70000"]))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(other)))
        taken.listen()
        with pytest.raises(
            LaunchError, match=f"port taken: GRPC_PORT={other}; stop what listens there or choose others"
        ):
            check_ports(parse(["--port", one, "--grpc-port", other]))
