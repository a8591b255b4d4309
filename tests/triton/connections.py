"""Every connection and every datagram of a program and all that it starts, seen from outside by strace."""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

# Only these system calls stop the program: --seccomp-bpf lets all others run at full speed.
# The program stays our child (--daemonize), and gets our signals.
STRACE = (
    "strace",
    "--daemonize=session",
    "--follow-forks",
    "--seccomp-bpf",
    "--quiet=all",
    "--string-limit=64",
    "--trace=connect,sendto",
)
ADDRESS = re.compile(r'(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"')
PORT = re.compile(r"sin6?_port=htons\((\d+)\)")
LOOK_UP = re.compile(r'sun_path="([^"]*(?:resolve|nscd|mdns)[^"]*)"')  # daemons that look names up for others


def can_trace() -> bool:
    """Whether strace is here and may trace."""
    return bool(shutil.which("strace")) and subprocess.run(
        [*STRACE, "--output=/dev/null", "true"], capture_output=True, check=False
    ).returncode == 0  # fmt: skip


def traced(log: Path) -> tuple[str, ...]:
    """The beginning of a command line."""
    return (*STRACE, f"--output={log}")


def outside(log: Path) -> list[str]:
    """Addresses off this machine that were connected or sent to, and questions to a resolver."""
    return sorted(set(_outside(log.read_text(errors="replace"))))


def _outside(text: str) -> Iterator[str]:
    for line in text.splitlines():
        port = PORT.search(line)
        for address in ADDRESS.findall(line):
            if port and not _is_local(address):
                yield f"{address}:{port[1]}"
            elif port and port[1] == "53":  # a resolver on this machine asks others
                yield f"name look-up at {address}"
        for daemon in LOOK_UP.findall(line):
            if "nscd" not in daemon:  # asked for users and groups too, at every start
                yield f"name look-up at {daemon}"


def _is_local(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
