"""Builds the client library's wheel: ``client/`` as ``qwen_triton_client``, with what it uses of ``contract/`` inside.

``client`` is too common a name for site-packages, so the imports are rewritten on the way into the wheel; in the
repository ``from client import Client`` is what it was. All else about the distribution is in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
NAME = "qwen_triton_client"
# The last two are for the docstrings and messages: they name modules and the command line.
REWRITES = (
    (re.compile(r"^(\s*(?:from|import) )client\b", re.MULTILINE), rf"\1{NAME}"),
    (re.compile(r"^(\s*(?:from|import) )contract\b", re.MULTILINE), rf"\1{NAME}._contract"),
    (re.compile(r"python -m client\b"), f"python -m {NAME}"),
    (re.compile(r"``client\."), f"``{NAME}."),
)


def imported(path: Path) -> set[Path]:
    """Files of ``contract/`` that the module at ``path`` imports. They are needed by type checkers too, so an import
    under ``TYPE_CHECKING`` counts."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "contract":
            base = ROOT.joinpath(*str(node.module).split("."))
            found |= {f for f in (base.with_suffix(".py"), *(base / f"{a.name}.py" for a in node.names)) if f.exists()}
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("contract.")]
            found |= {ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in names}
    return found


def sources() -> dict[Path, str]:
    """Source file -> its path inside the package."""
    client = sorted((ROOT / "client").glob("*.py"))
    contract, unread = {ROOT / "contract/__init__.py"}, set(client)
    while unread:
        unread = set().union(*map(imported, unread)) - contract
        contract |= unread
    files = {path: path.name for path in [*client, ROOT / "client/py.typed"]}
    return files | {path: f"_contract/{path.name}" for path in sorted(contract)}


class BuildClient(build_py):
    """Writes the package; knows nothing of setuptools' own search for modules."""

    def run(self) -> None:
        if self.editable_mode:
            raise SystemExit("an editable install is not needed: in the repository `from client import Client` works")
        package = Path(self.build_lib) / NAME
        shutil.rmtree(package, ignore_errors=True)
        for source, name in sources().items():
            text = source.read_text(encoding="utf-8")
            for pattern, replacement in REWRITES:
                text = pattern.sub(replacement, text)
            target = package / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [str(Path(self.build_lib) / NAME / name) for name in sources().values()]

    def get_source_files(self) -> list[str]:
        return [str(path.relative_to(ROOT)) for path in sources()]


setup(cmdclass={"build_py": BuildClient}, package_dir={NAME: "client"})
