"""Requests as other people's clients send them, recorded where the client itself is not installed here."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import httpx
import pytest

from client import Client, Options
from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.bodies import ask
from tests.serving.gateway.conftest import RunningGateway

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "time"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "required": ["a"]}}}


NEUTRAL: list[dict[str, Any]] = [
    {"reasoning_effort": "none"}, {"verbosity": "medium"}, {"chat_template_kwargs": {}}, {"documents": []},
    {"chat_template_kwargs": {"enable_thinking": False, "x": None}},
    {"include_reasoning": False}, {"skip_special_tokens": True}, {"max_tokens": 4.0}, {"logits_processors": []},
    {"session_id": "s"}, {"routed_experts_prompt_start": 0}, {"mm_payload": "tensors"}, {"stream_interval": 1},
    {"guided_decoding_backend": "xgrammar"}, {"return_tokens_as_token_ids": False}, {"return_token_ids": False},
    {"tools": []},
]  # fmt: skip


@pytest.mark.parametrize("field", NEUTRAL, ids=lambda field: next(iter(field)))
def test_a_value_that_changes_nothing_is_accepted(web: httpx.Client, field: dict[str, Any]) -> None:
    assert web.post(CHAT, json=ask("SAY x", **field)).status_code == 200
    name = next(iter(field))
    if name not in ("max_tokens", "tools"):
        assert web.post(RESPONSES, json={"input": "SAY x", **field}).status_code == 200


@pytest.mark.parametrize(
    "field",
    [
        {"reasoning_effort": "high"}, {"documents": [{}]}, {"max_tokens": 4.5},
        {"chat_template_kwargs": {"enable_thinking": True}}, {"chat_template_kwargs": {"messages": False}},
    ],
)  # fmt: skip
def test_a_value_that_changes_something_is_refused_by_name(web: httpx.Client, field: dict[str, Any]) -> None:
    error = web.post(CHAT, json=ask("x", **field)).json()["error"]
    assert error["param"] == next(iter(field))


def test_the_best_n_of_n_are_all(web: httpx.Client) -> None:
    """LangChain's ``OpenAI(n=2, best_of=2)``."""
    both = web.post(COMPLETIONS, json={"prompt": "SAY x", "n": 2, "best_of": 2}).json()["choices"]
    assert [choice["text"] for choice in both] == ["x", "x"]
    for wrong in ({"best_of": 2}, {"n": 2, "best_of": 3}, {"best_of": True, "n": 1}):
        error = web.post(COMPLETIONS, json={"prompt": "SAY x", **wrong}).json()["error"]
        assert (error["param"], error["code"]) == ("best_of", "unsupported")


def test_histories_with_empty_contents(web: httpx.Client, fake: FakeTriton) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    history = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": None},
        {"role": "user", "content": "SAY x"},
    ]
    assert web.post(CHAT, json={"messages": history, "tools": [TOOL]}).status_code == 200
    items = [
        {"role": "user", "content": "a"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "reasoning", "id": "rs_2", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": None},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": None},
        {"role": "user", "content": "SAY x"},
    ]
    assert web.post(RESPONSES, json={"input": items}).status_code == 200
    roles = [message["role"] for message in json.loads(fake.requests[-1]["messages"])]
    assert roles == ["user", "assistant", "tool", "user"]


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_hide_the_others(web: httpx.Client, fake: FakeTriton, mode: str) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named]}}
    assert web.post(CHAT, json=ask("SAY []", tools=[OTHER, TOOL], tool_choice=choice)).status_code == 200
    flat = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "weather"}]}
    tools = [{"type": "function", **tool["function"]} for tool in (OTHER, TOOL)]
    assert web.post(RESPONSES, json={"input": "SAY []", "tools": tools, "tool_choice": flat}).status_code == 200
    for sent in fake.requests:
        assert [tool["function"]["name"] for tool in json.loads(sent["tools"])] == ["weather"]
        assert "weather" in sent["guided_decoding_guide"] and "time" not in sent["guided_decoding_guide"]
        assert sent["guided_decoding_guide_type"] == ("structural_tag" if mode == "auto" else "json_schema")
    missing = web.post(CHAT, json=ask("x", tools=[OTHER], tool_choice=choice)).json()["error"]
    assert "'weather' is not among tools (time)" in missing["message"]


def test_a_forced_tool_wins_over_a_response_format(web: httpx.Client, fake: FakeTriton) -> None:
    """instructor's RESPONSES_TOOLS and vLLM's own test send both."""
    body = ask(
        'SAY [{"name": "weather", "arguments": {}}]', tools=[TOOL], tool_choice="required", response_format=FORMAT
    )
    choice = web.post(CHAT, json=body).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert json.loads(fake.requests[-1]["guided_decoding_guide"])["type"] == "array"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize(
    "guide", [{"guided_regex": "a+"}, {"structured_outputs": {"json_object": True}}, {"guided_choice": ["a"]}]
)
def test_a_guide_beside_a_forced_tool_is_refused(web: httpx.Client, choice: object, guide: dict[str, object]) -> None:
    """It was dropped without a word."""
    answer = web.post(CHAT, json=ask("SAY {}", tools=[TOOL], tool_choice=choice, **guide))
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"].startswith(next(iter(guide)))
    assert "forced call" in error["message"]


def test_answers_have_the_fields_that_typed_clients_require(web: httpx.Client) -> None:
    assert web.post(CHAT, json=ask("SAY x")).json()["choices"][0]["message"]["refusal"] is None


def test_paths_that_routers_and_probes_ask(web: httpx.Client) -> None:
    assert web.get("/v1/models/").json()["data"][0]["id"] == "qwen-tiny"
    assert web.post(CHAT + "/", json=ask("SAY x")).status_code == 200
    assert web.get("/version").json()["version"] and web.get("/ping").status_code == 200
    assert web.get("/load").json() == {"server_load": 0}
    (load,) = web.get("/v1/loads?include=core").json()["loads"]
    assert (load["num_waiting_reqs"], load["token_usage"]) == (12, 0.25)


def test_load_is_that_of_all_workers(web: httpx.Client, gateway: RunningGateway, fake: FakeTriton) -> None:
    """Each connection meets one of the two workers, and a router polls on connections of its own."""
    fake.step_ms = 50
    with web.stream("POST", CHAT, json=ask("x", max_tokens=1000, stream=True)) as answer:
        lines = answer.iter_lines()
        next(lines)
        said = {httpx.get(f"{gateway.url}/load", trust_env=False, verify=False).text for _ in range(12)}
    assert said == {'{"server_load":1}'}


@pytest.mark.parametrize("name", ["qwen", "Qwen/Tiny"])
def test_azures_paths(web: httpx.Client, name: str) -> None:
    """``AzureOpenAI`` puts the model into the path, and its key into a header of its own."""
    path = f"/openai/deployments/{name}/chat/completions?api-version=2024-10-21"
    answer = web.post(path, json=ask("SAY x", model="gpt-4o"), headers={"api-key": "k"}).json()
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == (name, "x")
    assert web.post("/openai/v1/responses", json={"input": "SAY x", "model": "qwen"}).json()["model"] == "qwen"
    assert web.get("/openai/models?api-version=1").json()["object"] == "list"
    unknown = web.post("/openai/deployments/gpt-4o/completions", json={"prompt": "SAY x", "model": "qwen"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert web.post("/openai/deployments/qwen/embeddings", json={"input": "x"}).status_code == 404


def test_sagemakers_path(web: httpx.Client) -> None:
    """Whose containers have ``/ping`` and this; vLLM tells chats and completions apart in the same way."""
    pairs = [(CHAT, ask("SAY x")), (COMPLETIONS, {"prompt": "SAY x"})]
    for path, body in pairs:
        for more in ({}, {"stream": True}):
            own, its = (_lasting(web.post(there, json={**body, **more}).text) for there in (path, "/invocations"))
            assert own == its
    assert web.post("/invocations", json={}).json()["error"]["param"] == "prompt"
    assert web.post("/invocations", content=b"[").json()["error"]["code"] == "invalid_json"


def _lasting(text: str) -> str:
    return re.sub(r'"(id|created)":("[^"]*"|\d+),', "", text)


def test_nothing_redirects(web: httpx.Client) -> None:
    """Behind TLS the gateway would redirect to http."""
    for path in ("/v1/models/", "/health/", "/static/", "/static", "/nowhere/"):
        assert web.get(path).status_code not in (301, 302, 307, 308), path


@pytest.mark.parametrize("stream", [True, False])
def test_http_1_0_has_no_chunks(web: httpx.Client, stream: bool) -> None:
    with socket.create_connection((web.base_url.host, web.base_url.port or 0)) as raw:
        body = json.dumps(ask("SAY hello", stream=stream)).encode()
        raw.sendall(b"POST %b HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body))
        raw.settimeout(10)
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert rest.startswith(b"data: {") and rest.endswith(b"data: [DONE]\n\n") if stream else json.loads(rest)


def codex(**more: Any) -> dict[str, Any]:
    """A turn of Codex CLI 0.169.0, shortened."""
    space = {
        "type": "namespace", "name": "multi_agent_v1", "description": "Agents",
        "tools": [{"type": "function", "name": "close_agent", "strict": False, "parameters": {"type": "object"}}],
    }  # fmt: skip
    command = {"type": "function", "name": "exec_command", "strict": False, "parameters": {"type": "object"}}
    return {
        "model": "qwen", "stream": False, "tool_choice": "auto", "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"}, "store": False, "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k", "client_metadata": {"turn_id": "t"}, "tools": [command, space],
        "instructions": "Be a coder.", "input": "SAY x", **more,
    }  # fmt: skip


def test_codex_calls_functions_in_namespaces(web: httpx.Client, fake: FakeTriton) -> None:
    said = 'SAY <tool_call>\n{"name": "multi_agent_v1.close_agent", "arguments": {"id": 1}}\n</tool_call>'
    (item,) = web.post(RESPONSES, json=codex(input=said)).json()["output"]
    assert (item["type"], item["namespace"], item["name"]) == ("function_call", "multi_agent_v1", "close_agent")
    names = [tool["function"]["name"] for tool in json.loads(fake.requests[-1]["tools"])]
    assert names == ["exec_command", "multi_agent_v1.close_agent"]
    result = {"type": "function_call_output", "call_id": item["call_id"], "output": "closed"}
    assert web.post(RESPONSES, json=codex(input=[{"role": "user", "content": "a"}, item, result])).status_code == 200
    sent = json.loads(fake.requests[-1]["messages"])
    assert sent[2]["tool_calls"][0]["function"]["name"] == "multi_agent_v1.close_agent"


def test_codex_is_told_how_to_turn_web_search_off(web: httpx.Client) -> None:
    error = web.post(RESPONSES, json=codex(tools=[{"type": "web_search", "external_web_access": False}])).json()[
        "error"
    ]
    assert error["param"] == "tools[0].type" and 'web_search = "disabled"' in error["message"]


def test_vercel_is_told_to_send_items_whole(web: httpx.Client) -> None:
    items = [{"role": "user", "content": "a"}, {"type": "item_reference", "id": "msg_1"}]
    error = web.post(RESPONSES, json={"input": items}).json()["error"]
    assert error["param"] == "input[1].type" and "store: false" in error["message"]


def test_structural_tags_reach_the_engine_from_each_place(web: httpx.Client, fake: FakeTriton) -> None:
    tag = {"format": {"type": "const_string", "value": "a"}}
    asked = [{"response_format": {"type": "structural_tag", **tag}},
             {"structured_outputs": {"structural_tag": json.dumps(tag)}}]  # fmt: skip
    for more in asked:
        assert web.post(CHAT, json=ask("SAY a", **more)).status_code == 200
    with Client(str(web.base_url)) as client:
        client.generate("SAY a", Options(guide_type="structural_tag", guide=json.dumps(tag)))
    for sent in fake.requests:
        assert sent["guided_decoding_guide_type"] == "structural_tag" and "guided_decoding_optional" not in sent
        assert json.loads(sent["guided_decoding_guide"]) == tag


@pytest.mark.parametrize(
    ("path", "kind", "field"),
    [(CHAT, "text", "messages"), ("/v1/responses", "input_text", "input"), ("/v1/messages", "text", "messages")],
)
def test_parts_of_a_message_are_lines(web: httpx.Client, fake: FakeTriton, path: str, kind: str, field: str) -> None:
    """As in vLLM and trtllm-serve; agents send an instruction and a file as two parts."""
    parts = [{"type": kind, "text": "SAY a"}, {"type": kind, "text": "b"}]
    body = {field: [{"role": "user", "content": parts}], **({"max_tokens": 9} if "/messages" in path else {})}
    assert web.post(path, json=body).status_code == 200
    assert json.loads(fake.requests[0]["messages"])[-1]["content"] == "SAY a\nb"
