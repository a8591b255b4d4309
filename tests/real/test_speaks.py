"""Real text through the whole server: streams, stop strings, growing chats, seeds, guides, and what is refused."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
from openai import OpenAI

pytestmark = pytest.mark.triton
GREEDY: dict[str, Any] = {"model": "qwen", "temperature": 0, "max_tokens": 60}
UNPENALIZED = {"repetition_penalty": 1.0}
STORY = [{"role": "user", "content": "Write a short story about a fox and a river."}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}, "married": {"type": "boolean"},
    },
    "required": ["name", "age", "married"],
    "additionalProperties": False,
}  # fmt: skip
PEOPLE = (
    "a teacher in Rome", "an old sailor", "a young queen", "the mayor of Lyon", "a shy poet", "my neighbour",
    "a chess champion", "a farmer's son", "the last emperor", "a clockmaker",
)  # fmt: skip
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def ask(openai: OpenAI, messages: list[Any], **more: Any) -> Any:
    return openai.chat.completions.create(messages=messages, **(GREEDY | more))


def text(openai: OpenAI, messages: list[Any], **more: Any) -> str:
    return str(ask(openai, messages, **more).choices[0].message.content)


def pieces(openai: OpenAI) -> list[str]:
    """The texts of the story's chunks."""
    texts = [c.choices[0].delta.content or "" for c in ask(openai, STORY, stream=True) if c.choices]
    return [text for text in texts if text]


@pytest.fixture(scope="module")
def story(openai: OpenAI) -> str:
    return text(openai, STORY)


def test_it_knows_the_capital_of_france(openai: OpenAI) -> None:
    assert (
        text(openai, [{"role": "user", "content": "What is the capital of France?"}])
        == "The capital of France is Paris."
    )
    done = openai.completions.create(
        model="qwen", prompt="The capital of France is", temperature=0, max_tokens=4, extra_body=UNPENALIZED
    )
    assert done.choices[0].text.startswith(" Paris")


def test_a_stream_is_the_whole_answer_token_by_token(openai: OpenAI, story: str) -> None:
    assert re.match(r"[A-Z][a-z ,']+", story) and len(set(story.split())) > 20, story
    streams = [pieces(openai) for _ in range(3)]
    assert all("".join(stream) == story for stream in streams)
    assert max(map(len, streams)) == GREEDY["max_tokens"], "an idle server sends every token by itself"


def test_stop_strings_end_inside_and_across_chunks(openai: OpenAI, story: str) -> None:
    border = len("".join(pieces(openai)[:20]))
    for stop in (story[border - 4 : border + 4], story[border + 1 : border + 3], story[-12:]):
        for stream in (False, True):
            if stream:
                events = [e.choices[0] for e in ask(openai, STORY, stop=[stop], stream=True) if e.choices]
                got, reason = "".join(e.delta.content or "" for e in events), events[-1].finish_reason
            else:
                choice = ask(openai, STORY, stop=[stop]).choices[0]
                got, reason = choice.message.content, choice.finish_reason
            assert (got, reason) == (story[: story.index(stop)], "stop")


def test_a_chat_of_three_turns_is_computed_once(openai: OpenAI) -> None:
    messages = [{"role": "system", "content": "You are a patient teacher. Answer in one or two plain sentences."}]
    cached = []
    for question in ("What is a river?", "Where does its water come from?", "And where does it go?"):
        messages.append({"role": "user", "content": question})
        answer = ask(openai, messages, max_tokens=40)
        assert answer.usage.prompt_tokens + answer.usage.completion_tokens == answer.usage.total_tokens
        cached.append(answer.usage.prompt_tokens_details.cached_tokens)
        messages.append({"role": "assistant", "content": answer.choices[0].message.content})
    assert 0 < cached[1] < cached[2]


def test_a_seed_repeats_alone_and_in_company(openai: OpenAI) -> None:
    def sampled(seed: int) -> str:
        return text(openai, STORY, temperature=1.0, top_p=1.0, max_tokens=30, seed=seed)

    alone = sampled(5)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(sampled, (5, 6, 5, 7)))
    assert together[0] == together[2] == alone and len(set(together)) == 3


def together(openai: OpenAI, prompts: tuple[str, ...], **more: Any) -> list[str]:
    """The answers to all ``prompts`` at once: each follows its guide in company."""
    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(lambda prompt: text(openai, [{"role": "user", "content": prompt}], **more), prompts))


def test_json_schema_holds_on_ten_prompts(openai: OpenAI) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    prompts = tuple(f"Describe {who} as JSON." for who in PEOPLE)
    made = together(openai, prompts, response_format=schema, max_tokens=100)
    for answer in made:
        jsonschema.validate(json.loads(answer), PERSON)
    assert len(set(made)) > 5, "the answers come from the prompts, not from the schema alone"


def test_regex_holds_on_ten_prompts(openai: OpenAI) -> None:
    pattern = r"(19|20)\d\d-(0[1-9]|1[0-2])-[0-3]\d"
    prompts = tuple(f"When was {who} born?" for who in PEOPLE)
    made = together(openai, prompts, extra_body={"guided_regex": pattern})
    assert all(re.fullmatch(pattern, answer) for answer in made), made


def test_log_probabilities_add_up(openai: OpenAI) -> None:
    answer = ask(openai, STORY, max_tokens=8, logprobs=True, top_logprobs=5, extra_body=UNPENALIZED).choices[0]
    for each in answer.logprobs.content:
        assert each.top_logprobs[0].token == each.token and each.top_logprobs[0].logprob == pytest.approx(each.logprob)
        assert [t.logprob for t in each.top_logprobs] == sorted((t.logprob for t in each.top_logprobs), reverse=True)
    assert "".join(each.token for each in answer.logprobs.content) == answer.message.content


def test_a_forced_tool_is_called(openai: OpenAI) -> None:
    """SmolLM2's template knows no tools: they are told in the system message. A string may never close by itself."""
    whole = UNPENALIZED | {"guided_complete": True}
    choice = ask(openai, STORY, tools=[WEATHER], tool_choice="required", max_tokens=60, extra_body=whole).choices[0]
    assert (choice.finish_reason, choice.message.tool_calls[0].function.name) == ("tool_calls", "weather")
