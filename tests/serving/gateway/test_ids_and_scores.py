"""Token ids and log probabilities of prompts, as evaluation harnesses and vLLM's clients ask for them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.bodies import ask

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.mark.parametrize("prompt", [[0, 0, 0, 0, 0], [9707, 11, 1879]])
def test_ids_reach_the_engine_as_they_are(web: httpx.Client, fake: FakeTriton, prompt: list[int]) -> None:
    choice = web.post(COMPLETIONS, json={"prompt": prompt, "max_tokens": 2, "return_token_ids": True}).json()["choices"]
    assert (choice[0]["prompt_token_ids"], choice[0]["token_ids"]) == (prompt, [0, 1])
    assert fake.requests[-1]["input_ids"] == prompt and "text_input" not in fake.requests[-1]


def test_several_prompts_of_ids(web: httpx.Client, fake: FakeTriton) -> None:
    body = {"prompt": [[1, 2], [3]], "max_tokens": 2, "return_token_ids": True}
    choices = web.post(COMPLETIONS, json=body).json()["choices"]
    assert [choice["prompt_token_ids"] for choice in choices] == [[1, 2], [3]]
    events = _events(web, COMPLETIONS, body)
    told = {e["choices"][0]["index"]: ids for e in events if (ids := e["choices"][0].get("prompt_token_ids"))}
    assert told == {0: [1, 2], 1: [3]}
    refused = web.post(COMPLETIONS, json={"prompt": [[1], []]}).json()["error"]
    assert refused["param"] == "prompt[1]"


def test_prompt_and_answer_of_a_chat_as_ids(web: httpx.Client) -> None:
    """As vLLM: the prompt's ids stand at the top of a chat's body, and of its stream's first event."""
    body = ask("x", max_tokens=3, return_token_ids=True)
    whole = web.post(CHAT, json=body).json()
    assert (whole["prompt_token_ids"], whole["choices"][0]["token_ids"]) == ([5, 6, 7], [0, 1, 2])
    events = _events(web, CHAT, body)
    assert [event.get("prompt_token_ids") for event in events] == [[5, 6, 7], *[None] * (len(events) - 1)]
    assert [i for event in events for i in event["choices"][0].get("token_ids", [])] == [0, 1, 2]


def test_what_nobody_asked_for_is_null_in_a_body(web: httpx.Client) -> None:
    """As vLLM: its clients read these attributes whether they asked or not."""
    chat = web.post(CHAT, json=ask("x")).json()
    (choice,) = web.post(COMPLETIONS, json={"prompt": "x"}).json()["choices"]
    about_prompt = [holder[name] for holder in (chat, choice) for name in ("prompt_token_ids", "prompt_logprobs")]
    assert {*about_prompt, chat["choices"][0]["token_ids"], choice["token_ids"]} == {None}


def lm_eval(**more: Any) -> dict[str, Any]:
    """A multiple-choice request of lm-evaluation-harness 0.4 (`local-completions`)."""
    return {"prompt": [5, 6, 7], "max_tokens": 1, "logprobs": 1, "temperature": 0, "seed": 1234, "echo": True, **more}


def test_lm_eval_gets_the_prompts_log_probabilities(web: httpx.Client, fake: FakeTriton) -> None:
    (choice,) = web.post(COMPLETIONS, json=lm_eval(max_tokens=2)).json()["choices"]
    scores = choice["logprobs"]
    assert scores["token_logprobs"] == [None, -6.0, -7.0, -0.5, -0.5]
    assert scores["tokens"] == ["&", "'", "(", "!", '"'] and scores["text_offset"] == [0, 1, 2, 3, 4]
    assert scores["top_logprobs"][:3] == [None, {"(": -0.5, "'": -6.0}, {")": -0.5, "(": -7.0}]
    sent = fake.requests[-1]
    assert (sent["return_prompt_log_probs"], sent["prompt_top_logprobs"], sent["top_logprobs"]) == (True, 1, 1)


def test_several_prompts_keep_their_scores_apart(web: httpx.Client) -> None:
    choices = web.post(COMPLETIONS, json=lm_eval(prompt=[[5, 6, 7], [9, 8]], n=2)).json()["choices"]
    assert [c["logprobs"]["token_logprobs"][:-1] for c in choices] == [[None, -6.0, -7.0]] * 2 + [[None, -8.0]] * 2


def test_scores_of_the_prompt_in_a_stream(web: httpx.Client) -> None:
    events = _events(web, COMPLETIONS, lm_eval(max_tokens=2))
    scores = [e["choices"][0]["logprobs"] for e in events if e["choices"][0]["logprobs"]]
    assert [p for part in scores for p in part["token_logprobs"]] == [None, -6.0, -7.0, -0.5, -0.5]
    assert "prompt_token_ids" not in events[0]["choices"][0]


def test_tokens_are_named_by_id_where_asked(web: httpx.Client) -> None:
    """``return_tokens_as_token_ids`` of vLLM: the texts of two tokens may be the same."""
    named = web.post(COMPLETIONS, json=lm_eval(return_tokens_as_token_ids=True)).json()["choices"][0]["logprobs"]
    plain = web.post(COMPLETIONS, json=lm_eval()).json()["choices"][0]["logprobs"]
    assert named["tokens"][:3] == ["token_id:5", "token_id:6", "token_id:7"]
    assert (
        list(named["top_logprobs"][1]) == ["token_id:6", "token_id:7"] and named["text_offset"] == plain["text_offset"]
    )
    body = ask("x", logprobs=True, top_logprobs=1, max_tokens=2, return_tokens_as_token_ids=True)
    for entry in web.post(CHAT, json=body).json()["choices"][0]["logprobs"]["content"]:
        assert (
            entry["token"].startswith("token_id:")
            and entry["bytes"]
            and entry["top_logprobs"][0]["token"][:9] == "token_id:"
        )


def test_prompt_logprobs_as_vllm_gives_them(web: httpx.Client) -> None:
    body = {"prompt": [5, 6, 7], "max_tokens": 2, "prompt_logprobs": 1}
    first, _, third = web.post(COMPLETIONS, json=body).json()["choices"][0]["prompt_logprobs"]
    best = {"logprob": -0.5, "rank": 1, "decoded_token": ")"}
    assert first is None and third == {"7": {"logprob": -7.0, "rank": 2, "decoded_token": "("}, "8": best}
    chat = web.post(CHAT, json=ask("x", prompt_logprobs=0)).json()
    assert chat["prompt_logprobs"][1] == {"6": {"logprob": -6.0, "rank": 2, "decoded_token": "'"}}
    assert "prompt_logprobs" not in chat["choices"][0] and chat["prompt_token_ids"] is None
    refused = web.post(CHAT, json=ask("x", prompt_logprobs=0, stream=True)).json()["error"]
    assert refused["param"] == "prompt_logprobs"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("unsupported return_prompt_log_probs: the loaded engine cannot honour it", "logprobs"),
        ("invalid_request prompt_top_logprobs: 21 is out of range", "logprobs"),
    ],
)
def test_scores_that_are_refused(web: httpx.Client, message: str, param: str) -> None:
    error = web.post(COMPLETIONS, json=lm_eval(prompt=f"ERR {message}")).json()["error"]
    assert error["param"] == param and error["message"].startswith(f"{param}: ")
    body = {"prompt": f"ERR {message}", "prompt_logprobs": 21}
    assert web.post(COMPLETIONS, json=body).json()["error"]["param"] == "prompt_logprobs"


def test_lm_evals_remote_tokenizer(web: httpx.Client) -> None:
    info = web.get("/tokenizer_info").json()
    assert (info["eos_token"], info["chat_template"]) == ("~", "{{ messages[0].content }}")
    assert web.post("/tokenize", json={"prompt": "test", "add_special_tokens": False}).json()["count"] == 4


def _events(web: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    lines = web.post(path, json={**body, "stream": True}).text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "prompt", "prefix"), [(CHAT, ask("SAY x"), "chatcmpl-"), ("/v1/completions", {"prompt": "SAY x"}, "cmpl-")]
)
def test_an_answer_has_the_id_that_its_request_names(
    path: str, prompt: dict[str, Any], prefix: str, stream: bool, web: httpx.Client, fake: FakeTriton
) -> None:
    """The engine's id stays the gateway's: with another client's, a request could be cancelled."""
    for headers, named in (({}, f"{prefix}mine-1"), ({"x-request-id": "call-7"}, "call-7")):
        answer = web.post(path, json={**prompt, "request_id": "mine-1", "stream": stream}, headers=headers)
        assert answer.headers["x-request-id"] == named
        text = answer.text.removeprefix("data: ").partition("\n\n")[0] if stream else answer.text
        assert json.loads(text)["id"] == f"{prefix}mine-1"
    assert len(set(fake.ids)) == len(fake.ids) and "mine-1" not in "".join(fake.ids)
    for wrong in ("", "a b", "x" * 129, "é"):
        answer = web.post(path, json=prompt, headers={"x-request-id": wrong.encode()})
        assert answer.headers["x-request-id"] == answer.json()["id"], "no header comes back changed"
        refused = web.post(path, json={**prompt, "request_id": wrong})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "request_id"
