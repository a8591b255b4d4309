"""contract/context.py's two sentences in the words of OpenAI and of Anthropic. Agents and proxies look for these words
and read the numbers in them; then they shorten the conversation, ask for less or take another model."""

from __future__ import annotations

import re

_PROMPT = re.compile(
    r"([\w\[\]]+): the prompt has (at least )?(\d+) tokens, the context is (\d+) and a prompt may take (\d+); "
    r"shorten it (.*)"
)
_ANSWER = re.compile(
    r"(\w+): (\d+) with a prompt of (\d+) tokens exceeds the context of (\d+) tokens; use at most (\d+)"
)


def openais(message: str) -> str:
    if found := _PROMPT.fullmatch(message):
        field, at_least, prompt, context, most, remedy = found.groups()
        return (
            f"{field}: This model's maximum context length is {context} tokens. However, your {field} resulted in "
            f"{at_least or ''}{prompt} tokens, and a prompt may take {most}. Please reduce the length of the {field} "
            f"{remedy}"
        )
    if found := _ANSWER.fullmatch(message):
        field, answer, prompt, context, left = found.groups()
        return (
            f"{field}: This model's maximum context length is {context} tokens. However, you requested "
            f"{int(prompt) + int(answer)} tokens ({prompt} in the messages, {answer} in the completion). Please reduce "
            f"the length of the messages or completion; use at most {left}"
        )
    return message


def anthropics(message: str) -> str:
    if found := _PROMPT.fullmatch(message):
        return f"prompt is too long: {found[3]} tokens > {found[5]} maximum"
    if found := _ANSWER.fullmatch(message):
        return (
            f"input length and `max_tokens` exceed context limit: {found[3]} + {found[2]} > {found[4]}, decrease input "
            "length or `max_tokens` and try again"
        )
    return message
