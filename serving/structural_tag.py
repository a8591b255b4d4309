"""Structural tags: grammars for parts of a text, in xgrammar's notation, which vLLM and TensorRT-LLM take too. Pure.

The newer form is a tree (``{"format": {"type": "triggered_tags", …}}``), the older one a list (``{"structures": […],
"triggers": […]}``). Reference: https://xgrammar.mlc.ai/docs/tutorials/structural_tag.html
"""

from __future__ import annotations

import json
from typing import Any

from serving import json_schema

Format = dict[str, Any]


def parsed(text: str) -> Format:
    """The tree, with its schemas as they are enforced. Raises ``ValueError``."""
    try:
        given = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(given, dict):
        raise ValueError("a structural tag is an object")
    found = given.get("format") if "structures" not in given else _older(given)
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        raise ValueError("it has neither format nor structures and triggers")
    prepared = _prepared(found)
    assert isinstance(prepared, dict)
    return prepared


def dumped(tree: Format) -> str:
    return json.dumps({"type": "structural_tag", "format": tree}, ensure_ascii=False)


def _older(given: dict[str, Any]) -> Format:
    try:
        tags = [
            tag(s["begin"], {"type": "json_schema", "json_schema": s["schema"]}, s["end"]) for s in given["structures"]
        ]
        return {"type": "triggered_tags", "triggers": given["triggers"], "tags": tags}
    except (KeyError, TypeError):
        raise ValueError("structures are objects with begin, schema and end, beside a list of triggers") from None


def tag(begin: str, content: Format, end: str) -> Format:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def _prepared(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_prepared(part) for part in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.get("type") == "json_schema":
        return tree | {"json_schema": json.loads(json_schema.prepared(json.dumps(tree.get("json_schema"))))}
    return {key: _prepared(part) for key, part in tree.items()}
