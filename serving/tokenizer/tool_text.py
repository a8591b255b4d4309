"""Tools, calls and results as ordinary messages, for chat templates that have no place for them.

The words are those of Qwen2.5's template (https://huggingface.co/Qwen/Qwen2.5-7B-Instruct, tokenizer_config.json), so
that the gateway reads the answer of any model in the same way, and guides it where the engine has grammars.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]
BEFORE = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
"""
AFTER = """
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""


def spelled(messages: Sequence[Message], tools: Sequence[Any]) -> list[Message]:
    """The conversation with its tools in the system message, calls as text and results as the user's words."""
    out: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            _add_result(out, f"<tool_response>\n{message['content']}\n</tool_response>")
        elif calls := message.get("tool_calls"):
            parts = [message["content"]] if message["content"] else []
            text = "\n".join([*parts, *map(_call, calls)])
            out.append({"role": message["role"], "content": text})
        else:
            out.append(message)
    return _with_tools(out, tools) if tools else out


def _add_result(out: list[Message], text: str) -> None:
    """Results of calls that were made together are one message of the user."""
    if out and out[-1].get("results"):
        out[-1]["content"] += "\n" + text
    else:
        out.append({"role": "user", "content": text, "results": True})


def _call(call: Any) -> str:
    function = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
    return f"<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>"


def _with_tools(messages: list[Message], tools: Sequence[Any]) -> list[Message]:
    text = BEFORE + "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools) + AFTER
    if messages and messages[0]["role"] == "system":
        first = messages[0]["content"]
        return [{**messages[0], "content": f"{first}\n\n{text}" if first else text}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
