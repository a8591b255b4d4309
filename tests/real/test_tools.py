"""Tool calls of real weights: SmolLM2 behind Qwen2.5's chat template, for its own has none. Both are ChatML."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
from openai import OpenAI

from build_engine.tokenizer_files import TEMPLATE
from tests.conftest import start_server, stop_server
from tests.real.conftest import Built

pytestmark = [pytest.mark.triton, pytest.mark.real]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 30},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer"},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}
ALARM = {
    "type": "object",
    "properties": {"hour": {"type": "integer"}, "minute": {"type": "integer"}},
    "required": ["hour", "minute"],
    "additionalProperties": False,
}
PARAMETERS = {"get_weather": WEATHER, "set_alarm": ALARM}
ABOUT = {"get_weather": "The weather of a city", "set_alarm": "Wakes the user up"}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "description": ABOUT[name], "parameters": parameters}}
    for name, parameters in PARAMETERS.items()
]
CITIES = ("Paris", "Rome", "London", "Tokyo", "Madrid", "Cairo", "Boston", "Vienna", "Oslo", "Sydney")
QUESTIONS = [f"What is the weather in {city} for the next three days?" for city in CITIES]


@pytest.fixture(scope="module")
def openai(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    home = tmp_path_factory.mktemp("tools")
    engine = home / "engine"
    shutil.copytree(built("fp32"), engine, copy_function=os.link)
    shutil.copyfile(TEMPLATE, engine / "chat_template.jinja")
    server = start_server(home / "serve.log", "--engine", str(engine), "--kv-cache-gb", "1", gateway=True)
    yield OpenAI(base_url=f"{server.gateway}/v1", api_key="none", max_retries=0)
    stop_server(server)


def ask(openai: OpenAI, messages: list[Any], **more: Any) -> Any:
    greedy: dict[str, Any] = {"model": "qwen", "temperature": 0, "max_tokens": 120, "tools": TOOLS}
    return openai.chat.completions.create(messages=messages, **(greedy | more))


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def called(choice: Any) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments, which are what the tool's schema says."""
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls]
    for name, arguments in calls:
        jsonschema.validate(arguments, PARAMETERS[name])
    return calls


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_named_tool_is_called_on_every_prompt(openai: OpenAI, name: str) -> None:
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        answers = list(pool.map(lambda text: ask(openai, user(text), tool_choice=named(name)).choices[0], QUESTIONS))
    made = [called(choice) for choice in answers]
    assert all([tool for tool, _ in calls] == [name] for calls in made), made
    if name == "get_weather":
        right = sum(calls[0][1]["city"].startswith(city) for city, calls in zip(CITIES, made, strict=True))
        assert right >= 8, made  # the arguments come from the prompt


def test_required_calls_a_tool_on_every_prompt(openai: OpenAI) -> None:
    def once(text: str) -> Any:
        return ask(openai, user(text), tool_choice="required", parallel_tool_calls=False).choices[0]

    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        answers = list(pool.map(once, QUESTIONS))
    assert {choice.finish_reason for choice in answers} == {"tool_calls"}
    assert all(len(called(choice)) == 1 for choice in answers)


@pytest.mark.parametrize("choice", ["required", named("get_weather")], ids=["required", "named"])
def test_a_streamed_call_is_the_whole_one(openai: OpenAI, choice: Any) -> None:
    one = {"tool_choice": choice, "parallel_tool_calls": False}
    whole = called(ask(openai, user(QUESTIONS[0]), **one).choices[0])
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    pieces = 0
    for chunk in ask(openai, user(QUESTIONS[0]), **one, stream=True):
        for call in chunk.choices[0].delta.tool_calls or [] if chunk.choices else []:
            names[call.index] = names.get(call.index, "") + (call.function.name or "")
            arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
            pieces += 1
    assert [(names[at], json.loads(arguments[at])) for at in sorted(names)] == whole
    assert pieces > 5, "arguments come while they are written"


def test_a_tools_result_is_read(openai: OpenAI) -> None:
    messages = user("What is the weather in Paris today?")
    message = ask(openai, messages, tool_choice=named("get_weather")).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "-4 degrees celsius"}
    answer = ask(openai, [*messages, message, result], tool_choice="none").choices[0]
    assert answer.message.tool_calls is None and "4°C" in answer.message.content, answer
