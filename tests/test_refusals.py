"""Every refusal of a request says what to do: its sentence reads ``problem; remedy``."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from contract.paths import ROOT

REFUSALS = ("InvalidRequest", "Unsupported", "ContextTooLong", "bad_request", "_refusal", "_refuse", "ApiError")
PACKAGES = ("contract", "client", "serving")
REMEDY = ("; ", ": should be ", "is wrong: ")  # pydantic says what a value should be


def refusals() -> Iterator[tuple[str, str]]:
    """Where each refusal is, and the fixed part of its sentence."""
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            tree = ast.parse(file.read_text())
            for function in (
                node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            ):
                for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
                    if name in REFUSALS and len(call.args) > 1:
                        yield f"{file.relative_to(ROOT)}:{call.lineno}", said(call.args[1], [function, tree])


def said(part: ast.AST, scopes: list[ast.AST]) -> str:
    """The texts in an expression, and in what its names are given in ``scopes``."""
    if isinstance(part, ast.Constant):
        return part.value if isinstance(part.value, str) else ""
    if isinstance(part, ast.Name):
        given = [node for scope in scopes[:1] for node in ast.walk(scope) if isinstance(node, ast.Assign)]
        values = [node.value for node in given if any(getattr(to, "id", "") == part.id for to in node.targets)]
        return " ".join(said(value, []) for value in values) or (said(part, scopes[1:]) if scopes else "")
    return "" if isinstance(part, ast.Call) else "".join(said(child, scopes) for child in ast.iter_child_nodes(part))


def test_every_refusal_says_what_to_do() -> None:
    found = list(refusals())
    assert len(found) > 120
    assert [
        (where, text) for where, text in found if text.strip(" :") and not any(sign in text for sign in REMEDY)
    ] == []
