"""What the README says to type is typed, against the real server."""

from __future__ import annotations

import re
import subprocess

import pytest

from contract.paths import ROOT
from tests.conftest import Server

README = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Talk to it")[2].partition("\n## ")[0]
CURLS = re.findall(r"^curl .*?(?<!\\)$", README, flags=re.MULTILINE | re.DOTALL)
(PYTHON,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def at(server: Server, command: str) -> str:
    for default, port in ((8000, server.http_port), (8001, server.grpc_port), (8080, server.gateway_port)):
        command = re.sub(rf"(localhost|127\.0\.0\.1):{default}\b", f"127.0.0.1:{port}", command)
    return command


@pytest.mark.triton
@pytest.mark.parametrize("command", CURLS, ids=lambda command: re.search(r"/v\d/\S+", command)[0])
def test_curl(server: Server, command: str) -> None:
    done = subprocess.run(
        ["bash", "-c", at(server, command) + " --fail-with-body --silent --max-time 30"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"text_output"' in done.stdout or '"content":"' in done.stdout, done.stdout
    assert len(CURLS) == 3


@pytest.mark.triton
def test_python(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(at(server, PYTHON), "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()
