"""What import-linter (``make lint``) does not check: underscore names, circles of files, class names used twice.

An import inside a function counts like any other: moving it there hides a circle, it does not remove it.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("contract", "client", "serving", "build_engine", "loadtest", "deploy")


@functools.cache
def modules(root: Path) -> dict[str, ast.Module]:
    """Every module of ours by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names of what the module imports, in functions too. Ours are absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def foreign_private(found: dict[str, ast.Module]) -> list[str]:
    """Imports of a ``_name`` or ``_module`` of another top-level package."""
    bad = []
    for name, tree in found.items():
        for imported in imports(tree):
            package, *rest = imported.split(".")
            private = any(part.startswith("_") and not part.startswith("__") for part in rest)
            if private and package in PACKAGES and package != name.partition(".")[0]:
                bad.append(f"{name} imports {imported}")
    return bad


def circle(found: dict[str, ast.Module]) -> list[str]:
    """The modules of one circle of imports; empty when there is none."""
    graph = {
        name: {
            m for i in imports(tree) for m in (i if i in found else i.rpartition(".")[0],) if m in found and m != name
        }
        for name, tree in found.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def twice(found: dict[str, ast.Module]) -> list[str]:
    """Class names that stand in two modules or more: a reader, a search and a traceback must lead to one place.

    A leading underscore makes no other name. Classes inside functions and classes count."""
    where: dict[str, list[str]] = {}
    for module, tree in found.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name.lstrip("_"), []).append(module)
    return [f"{name}: {', '.join(sorted(homes))}" for name, homes in sorted(where.items()) if len(homes) > 1]


def test_no_private_name_crosses_a_package() -> None:
    assert foreign_private(modules(ROOT)) == []


def test_no_circle_of_files() -> None:
    assert circle(modules(ROOT)) == []


def test_no_class_name_stands_twice() -> None:
    assert twice(modules(ROOT)) == []


def test_the_checks_see_what_they_look_for(tmp_path: Path) -> None:
    for name, text in {
        "client/__init__.py": "from client.a import A",
        "client/a.py": "def late():\n    from client import b",
        "client/b.py": "from client.a import A\nfrom contract._words import word\nfrom contract.words import _word\n"
        "class _Word: ...",
        "contract/words.py": "import os._hidden\nclass Word: ...\nclass Words: ...",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = modules(tmp_path)
    assert set(circle(found)) == {"client.a", "client.b"}
    assert foreign_private(found) == ["client.b imports contract._words.word", "client.b imports contract.words._word"]
    assert twice(found) == ["Word: client.b, contract.words"]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_are_where_they_are_looked_for(package: str) -> None:
    assert (ROOT / package / "__init__.py").is_file()
