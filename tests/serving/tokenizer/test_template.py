"""What a chat template cannot say is refused by name, with the model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from build_engine import tokenizer_files
from contract.errors import InvalidRequest, Unsupported
from serving.tokenizer.template import OTHER, TOOL, USER, ChatTemplate

QWEN = tokenizer_files.TEMPLATE.read_text(encoding="utf-8")
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
USERS_ONLY = (
    "{{ bos_token }}{% for m in messages if m.role in ('user', 'assistant') %}[{{ m.content | trim }}]{% endfor %}"
)
STRICT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.content }}"
    "{% endfor %}"
)
SYSTEM = {"role": "system", "content": "Be brief."}
RESULT = {"role": "tool", "content": "21 degrees", "tool_call_id": "call00000"}


def template(text: str, **more: str) -> ChatTemplate:
    return ChatTemplate({"default": text, **more}, {"bos_token": "<s>"}, "tiny-chat")


def render(made: ChatTemplate, messages: list[Any], tools: list[Any] | None = None) -> str:
    return made.render(messages, tools, True, False)


def test_qwens_template_says_everything() -> None:
    made = template(QWEN)
    text = render(made, [SYSTEM, USER, OTHER[1], RESULT], [TOOL])
    assert all(word in text for word in ("Be brief.", "zebra7", "other", "21 degrees"))
    assert text.endswith("<|im_start|>assistant\n")


def test_tools_are_told_where_a_template_knows_none() -> None:
    """In Qwen's words: what is between the turns' marks is the same text."""
    made = template(SMOLLM2)
    assert "Be brief." in render(made, [SYSTEM, USER])
    assert render(made, [USER], []) == render(made, [USER])
    talk = [SYSTEM, USER, {**OTHER[1], "content": "Let me see."}, RESULT, {**RESULT, "content": "rain"}]
    assert render(made, talk, [TOOL]) == render(template(QWEN), talk, [TOOL])
    assert render(made, [USER], [TOOL]).startswith("<|im_start|>system\n# Tools\n")
    assert "<tool_response>\n21 degrees\n" in render(made, [USER, OTHER[1], RESULT])


def test_tools_are_refused_where_they_cannot_be_told() -> None:
    with pytest.raises(Unsupported) as error:
        render(template(USERS_ONLY), [USER], [TOOL])
    assert str(error.value) == (
        "tools: the chat template of tiny-chat drops tools; leave them out, or serve a model that was trained on it"
    )


def test_system_messages_and_results_that_would_be_lost() -> None:
    made = template(USERS_ONLY)
    assert render(made, [USER, {"role": "system", "content": ""}]) == "<s>[Hello]"
    with pytest.raises(
        Unsupported, match=r"drops the system message of messages\[0\]; say it in the first user message"
    ):
        render(made, [SYSTEM, USER])
    with pytest.raises(Unsupported, match="messages: the chat template of tiny-chat drops tools"):
        render(made, [USER, RESULT])


def test_a_template_that_refuses_says_it_itself() -> None:
    with pytest.raises(InvalidRequest, match=r"the chat template refuses them \(no system\); check roles"):
        render(template(STRICT), [SYSTEM, USER])


def test_a_template_of_its_own_for_tools() -> None:
    made = template(SMOLLM2, tool_use=QWEN)
    assert "zebra7" in render(made, [USER], [TOOL]) and "SmolLM" in render(made, [USER])


def test_where_templates_lie(tmp_path: Path) -> None:
    def load(config: dict[str, Any]) -> ChatTemplate:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return ChatTemplate.load(tmp_path, "tiny-chat")

    assert render(load({"chat_template": USERS_ONLY, "bos_token": "<b>"}), [USER]) == "<b>[Hello]"
    several = [{"name": "rag", "template": "rag"}, {"name": "default", "template": SMOLLM2}]
    assert "SmolLM" in render(load({"chat_template": several}), [USER])
    with pytest.raises(Unsupported, match="messages: tiny-chat has no chat template; send text_input"):
        render(load({"bos_token": "<b>"}), [USER])
    (tmp_path / "chat_template.jinja").write_text(QWEN)
    assert "You are Qwen" in render(load({"chat_template": SMOLLM2}), [USER])
