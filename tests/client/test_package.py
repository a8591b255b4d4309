"""What ``pip install .`` gives: a typed package of its own name that needs nothing else of the repository."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from contract.paths import ROOT
from tests.client.fake_triton import FakeTriton

# Names that the repository has and the wheel must not need. site-packages holds the repository's path (bootstrap.py).
PROGRAM = """
import sys
sys.path[:] = [sys.argv[1]] + [p for p in sys.path if p and p != sys.argv[2]]
from qwen_triton_client import AsyncClient, Client, Options, errors
import qwen_triton_client.__main__
with Client(sys.argv[3]) as qwen:
    print(qwen.generate("SAY hello", Options(max_tokens=4)).text)
    try:
        qwen.generate("ERR context_length_exceeded messages: too long")
    except errors.ContextTooLong as error:
        print(error.field)
ours = [name for name in sys.modules if name.partition(".")[0] in ("client", "contract", "serving")]
assert not ours, ours
heavy = {"openvino", "transformers", "tokenizers", "starlette", "locust"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves folders in the tree that it builds."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "client", "contract", "docs/client.md",
         "setup.py", "pyproject.toml", "LICENSE", "NOTICE"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in files:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, tree]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_it_is_typed_and_brings_light_dependencies_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        needs = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist") or []
    assert "qwen_triton_client/py.typed" in names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"qwen_triton_client"}
    light = [need for need in needs if "extra ==" not in need]
    always = sorted(re.split("[<>=,]", need)[0] for need in light)
    assert always == ["httpx", "orjson", "tritonclient[grpc]"] and not any("==" in need for need in light)


def test_it_works_without_the_repository(wheel: Path, fake: FakeTriton, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "site"), str(ROOT), fake.grpc]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["hello", "messages"]


def test_a_type_checker_reads_it(wheel: Path, tmp_path: Path) -> None:
    """Every import of the package, those for type checkers included, leads to a file of the package."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = tmp_path / "program.py"
    program.write_text(
        "from qwen_triton_client import Client, Options\n\nwith Client() as qwen:\n"
        "    for chunk in qwen.stream('Hi', Options(max_tokens=4)):\n        reveal_type(chunk.token_ids)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--config-file", "/dev/null", program],
        cwd=tmp_path, env={"MYPYPATH": "site", "PATH": ""}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert 'Revealed type is "tuple[int, ...]"' in done.stdout.replace("builtins.", ""), done.stdout + done.stderr
    assert "Cannot find implementation" not in done.stdout and "qwen_triton_client" not in done.stdout
