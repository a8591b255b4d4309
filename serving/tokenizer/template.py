"""A checkpoint's chat template, and what it is able to render.

Many templates drop ``tools``, tool results or system messages: the model would answer as if they had never been sent.
So each of these is rendered once at start with a word that must come out. Tools that did not come out are put into the
system message (``tool_text``); anything else is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from contract.errors import InvalidRequest, Unsupported
from serving.tokenizer.tool_text import spelled

PROBE = "zebra7"
USER = {"role": "user", "content": "Hello"}
CALLS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "call00000", "type": "function", "function": {"name": PROBE, "arguments": {}}}],
}
TOOL = {
    "type": "function",
    "function": {"name": PROBE, "description": "A test.", "parameters": {"type": "object", "properties": {}}},
}
OTHER = json.loads(json.dumps([TOOL, CALLS]).replace(PROBE, "other"))  # what a tool's result needs around it
TOOL_USE = "tool_use"  # the name of the template for requests with tools, where a checkpoint has several


class ChatTemplate:
    """``name`` is the model's, for errors."""

    def __init__(self, templates: dict[str, str], special: dict[str, str], name: str) -> None:
        self._templates = templates
        self._special = special
        self._name = name
        result = {"role": "tool", "content": PROBE, "name": "other", "tool_call_id": "call00000"}
        self.renders_system = self._shows([{"role": "system", "content": PROBE}, USER])
        self.renders_tools = self._shows([USER], [TOOL])
        self.renders_calls = self._shows([USER, CALLS, {**result, "content": "1"}], OTHER[:1])
        self.renders_results = self._shows([USER, OTHER[1], result], OTHER[:1])

    @classmethod
    def load(cls, directory: Path, name: str) -> ChatTemplate:
        """From ``tokenizer_config.json``, or ``chat_template.jinja`` beside it."""
        config: dict[str, Any] = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        file = directory / "chat_template.jinja"
        found = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template") or {}
        if isinstance(found, list):
            found = {each["name"]: each["template"] for each in found}
        templates = {"default": found} if isinstance(found, str) else found
        special = {key: _text(config.get(key)) for key in ("bos_token", "eos_token", "pad_token")}
        return cls(templates, {key: text for key, text in special.items() if text is not None}, name)

    def check(self) -> None:
        """Raises whatever the template raises for one user's message."""
        self._rendered([USER], None, True, False)

    @property
    def exists(self) -> bool:
        """Whether the checkpoint has any template."""
        return bool(self._templates)

    def render(self, messages: list[dict[str, Any]], tools: list[Any] | None, opens: bool, goes_on: bool) -> str:
        """The prompt. ``opens``: the assistant's turn is begun; ``goes_on``: the last message is continued.

        Raises ``InvalidRequest`` for what the template drops or refuses."""
        if not self._templates:
            raise Unsupported("messages", f"{self._name} has no chat template; send text_input")
        if not self.renders_tools and (tools or any(m["role"] == "tool" or m.get("tool_calls") for m in messages)):
            if not self.renders_system:
                raise self._dropped("tools" if tools else "messages", "tools", "leave them out")
            messages, tools = spelled(messages, tools or ()), None
        for index, message in enumerate(messages):
            self._check(f"messages[{index}]", message)
        try:
            return self._rendered(messages, tools, opens, goes_on)
        except Exception as error:  # noqa: BLE001 - a template may raise anything; it is the caller's messages that it refuses
            raise InvalidRequest(
                "messages", f"the chat template refuses them ({error}); check roles and content"
            ) from None

    def _check(self, where: str, message: dict[str, Any]) -> None:
        if message["role"] == "system" and message["content"] and not self.renders_system:
            raise self._dropped("messages", f"the system message of {where}", "say it in the first user message")
        if message["role"] == "tool" and not self.renders_results:
            raise self._dropped("messages", f"the tool result of {where}", "say it in a user message")
        if message.get("tool_calls") and not self.renders_calls:
            raise self._dropped("messages", f"the tool_calls of {where}", "leave them out")

    def _dropped(self, field: str, what: str, remedy: str) -> Unsupported:
        return Unsupported(
            field, f"the chat template of {self._name} drops {what}; {remedy}, or serve a model that was trained on it"
        )

    def _shows(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None = None) -> bool:
        """Whether ``PROBE`` comes out. A template that refuses a probe may have a reason: its own error will say it."""
        if not self._templates:
            return False
        try:
            return PROBE in self._rendered(list(messages), tools, True, False)
        except Exception:  # noqa: BLE001 - see render
            return True

    def _rendered(self, messages: list[dict[str, Any]], tools: list[Any] | None, opens: bool, goes_on: bool) -> str:
        default = self._templates.get("default") or next(iter(self._templates.values()))
        rendered, _ = render_jinja_template(
            conversations=[messages], tools=tools or None,
            chat_template=self._templates.get(TOOL_USE, default) if tools else default,
            add_generation_prompt=opens, continue_final_message=goes_on, **self._special,
        )  # fmt: skip
        return str(rendered[0])


def _text(token: Any) -> str | None:
    """A special token as tokenizer_config.json writes it: a string, or with its flags in an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
