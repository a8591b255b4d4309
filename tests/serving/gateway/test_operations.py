"""The gateway under its operator's hands: slots freed, keep-alives, drain, metrics, origins, logs."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.outage import Outage
from tests.client.fake_triton import FakeTriton
from tests.serving.gateway.bodies import CHAT, ask
from tests.serving.gateway.conftest import RunningGateway, Start, tiny_engine
from tests.waiting import until


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("prompt", ["x", "SLOW 30"])
def test_a_client_that_leaves_frees_its_slot(web: httpx.Client, fake: FakeTriton, stream: bool, prompt: str) -> None:
    fake.step_ms = 50
    with socket.create_connection((web.base_url.host, web.base_url.port or 0)) as raw:
        body = json.dumps(ask(prompt, max_tokens=10_000, stream=stream)).encode()
        raw.sendall(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body))
        until(lambda: fake.live)
        time.sleep(0.1)
        assert fake.live
    fake.wait_free()
    assert fake.ended[-1][1] in ("cancelled", "disconnected")


def test_all_prompts_of_a_request_are_freed(web: httpx.Client, fake: FakeTriton) -> None:
    fake.step_ms = 50
    body = {"prompt": ["a", "b", "c"], "max_tokens": 1000, "stream": True}
    with web.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()  # kept: dropping it would close the connection
        next(lines)
        until(lambda: len(fake.live) == 3)  # the first line may come before the last prompt has arrived
    fake.wait_free()
    bad = {"prompt": ["x", "ERR invalid_request text_input: too long", "y"], "max_tokens": 1000}
    assert web.post("/v1/completions", json=bad).json()["error"]["param"] == "prompt[1]"
    fake.wait_free()


def test_silence_is_filled_with_comments(web: httpx.Client) -> None:
    with web.stream("POST", CHAT, json=ask("SLOW 1.3", stream=True)) as response:
        lines = list(response.iter_lines())
    assert lines.count(": keep-alive") >= 1
    assert lines.index(": keep-alive") < next(i for i, line in enumerate(lines) if "w0" in line)
    assert lines[-2:] == ["data: [DONE]", ""]


def test_an_error_in_mid_stream_is_an_event_and_the_end(web: httpx.Client) -> None:
    with web.stream("POST", CHAT, json=ask("MID engine_unavailable engine: the worker died", stream=True)) as response:
        events = [line for line in response.iter_lines() if line]
    assert response.status_code == 200
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert error["message"] == "engine: the worker died" and error["status"] == 503
    for prompt in ("GAP", "CUT"):
        assert web.post(CHAT, json=ask(prompt, stream=True)).text.count("[DONE]") == 0


def test_continuous_usage_and_token_ids(web: httpx.Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    text = web.post(CHAT, json=ask("x", max_tokens=3, stream=True, stream_options=options, return_token_ids=True)).text
    events = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    assert [e["usage"]["completion_tokens"] for e in events if e["choices"] and e["choices"][0].get("token_ids")] == [
        1,
        2,
        3,
    ]


def test_continuous_usage_as_vllm_counts(web: httpx.Client) -> None:
    """Every event has it, the opening one with no tokens yet; without include_usage it changes nothing."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    text = web.post(CHAT, json=ask("x", max_tokens=2, stream=True, stream_options=options)).text
    events = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    counts = [
        (e["usage"]["prompt_tokens"], e["usage"]["completion_tokens"], e["usage"]["total_tokens"]) for e in events
    ]
    assert counts == [(11, 0, 11), (11, 1, 12), (11, 2, 13), (11, 2, 13)]
    alone = {"continuous_usage_stats": True}
    assert "usage" not in web.post(CHAT, json=ask("x", max_tokens=2, stream=True, stream_options=alone)).text


DASHBOARDS = {  # histograms that dashboards and load tools made for vLLM read
    "time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds",
    "request_queue_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds",
    "request_inference_time_seconds", "request_time_per_output_token_seconds", "request_prompt_tokens",
    "request_generation_tokens", "request_max_num_generation_tokens", "request_params_n", "request_params_max_tokens",
}  # fmt: skip


def test_what_dashboards_read(web: httpx.Client) -> None:
    web.post(CHAT, json=ask("x", max_tokens=3, stream=True))
    text = web.get("/metrics").text
    for name in DASHBOARDS:
        found = re.search(rf'^vllm:{name}_count{{model_name="qwen-tiny"}} (\S+)', text, re.MULTILINE)
        assert found and float(found[1]) >= 1, name


def test_health_and_canary(web: httpx.Client, fake: FakeTriton) -> None:
    assert web.get("/health/live").status_code == web.get("/health/ready").status_code == 200
    assert web.get("/health/generate").json()["status"] == "generates"
    assert fake.requests[-1]["max_tokens"] == 1
    fake.ready = False
    try:
        assert "has not loaded" in web.get("/health/ready").json()["status"]
    finally:
        fake.ready = True


def test_the_503s_of_a_restart_say_when_to_come_back(own_gateway: Start, tmp_path: Path) -> None:
    word = tmp_path / "home" / "readiness"
    word.parent.mkdir()
    word.write_text("")
    running = own_gateway(GATEWAY_READINESS_FILE=str(word), TRITON_GRPC="127.0.0.1:9")
    with httpx.Client(base_url=running.url, trust_env=False, verify=False, timeout=20) as web:
        assert web.post(CHAT, json=ask("x")).headers["retry-after"] == "5", "its end is not known yet"
        word.write_text(Outage("restarting: it died", time.monotonic() + 30).dump())
        for answer in (
            web.post(CHAT, json=ask("x")), web.post(CHAT, json=ask("x", stream=True)),
            web.get("/health/ready"), web.get("/health/generate"),
        ):  # fmt: skip
            assert answer.status_code == 503 and "restarting: it died" in answer.text
            assert 20 <= int(answer.headers["retry-after"]) <= 30


@pytest.mark.parametrize(
    ("path", "prompt"),
    [("chat/completions", "messages"), ("completions", "prompt"), ("responses", "input"), ("messages", "messages")],
)
def test_no_proxy_holds_a_stream_back(web: httpx.Client, path: str, prompt: str) -> None:
    said = [{"role": "user", "content": "SAY x"}] if prompt == "messages" else "SAY x"
    bound = {} if path == "responses" else {"max_tokens": 9}
    answer = web.post(f"/v1/{path}", json={"model": "qwen", "stream": True, prompt: said, **bound})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] == "no-store, no-transform"


def test_the_trace_context_goes_on_to_triton(web: httpx.Client, fake: FakeTriton) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = web.post(CHAT, json=ask("SAY x"), headers={"traceparent": parent, "x-request-id": "mine-1"})
    assert fake.metadata[-1]["traceparent"] == parent
    assert answer.headers["x-request-id"] == "mine-1"


def test_metrics_of_all_workers_and_the_engine(web: httpx.Client) -> None:
    web.post(CHAT, json=ask("x", max_tokens=4, stream=True))
    families = {f.name: f for f in text_string_to_metric_families(web.get("/metrics").text)}
    for name in ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds",
                 "request_queue_time_seconds", "request_prompt_tokens", "request_generation_tokens"):  # fmt: skip
        samples = {s.name: s.value for s in families[f"vllm:{name}"].samples if s.name.endswith("_count")}
        assert samples[f"vllm:{name}_count"] >= 1, name
    assert families["vllm:kv_cache_usage_perc"].samples[0].value == 0.25
    assert families["vllm:num_requests_waiting"].samples[0].value == 12
    assert "nv_inference_count" not in families
    named = {s.labels["model_name"] for f in families.values() for s in f.samples if "model_name" in s.labels}
    assert named == {"qwen-tiny"}, "one name for both halves"
    reasons = {s.labels["finished_reason"] for s in families["vllm:request_success"].samples}
    assert reasons >= {"stop", "length", "tool_calls"}
    assert families["qwen_gateway_open_requests"].samples[0].value == 0


WHOLE = (
    "e2e_request_latency_seconds",
    "request_params_n",
    "request_params_max_tokens",
    "request_inference_time_seconds",
)


def test_refused_and_broken_answers_have_no_latency(web: httpx.Client) -> None:
    """During an outage thousands of quick refusals would stand on the dashboard as a fast server."""

    def counts() -> dict[str, float]:
        families = {family.name: family for family in text_string_to_metric_families(web.get("/metrics").text)}
        return {
            name: next(s.value for s in families[f"vllm:{name}"].samples if s.name.endswith("_count")) for name in WHOLE
        }

    before = counts()
    assert web.post(CHAT, json=ask("ERR invalid_request no", max_tokens=4)).status_code == 400
    assert web.post(CHAT, json=ask("ERR engine_unavailable it died", max_tokens=4)).status_code == 503
    assert '"error"' in web.post(CHAT, json=ask("MID engine_unavailable it died", max_tokens=4, stream=True)).text
    assert counts() == before
    assert web.post(CHAT, json=ask("x", max_tokens=4)).status_code == 200
    until(lambda: counts() == {name: count + 1 for name, count in before.items()})


def test_log_lines_have_numbers_and_no_prompts(web: httpx.Client, gateway: RunningGateway) -> None:
    web.post(CHAT, json=ask("SAY my secret"), headers={"x-request-id": "log-me"})
    until(lambda: "log-me" in gateway.log.read_text())
    line = next(json.loads(text) for text in gateway.log.read_text().splitlines() if "log-me" in text)
    assert line["status"] == 200 and line["output_tokens"] == 3 and line["finish"] == "stop" and "ttft_ms" in line
    assert "my secret" not in gateway.log.read_text()


def test_other_sites_pages_are_refused(web: httpx.Client, own_gateway: Start) -> None:
    assert web.post(CHAT, json=ask("x"), headers={"origin": "https://evil.example"}).status_code == 403
    own = str(web.base_url).rstrip("/")
    same = web.post(CHAT, json=ask("SAY x"), headers={"origin": own})
    assert same.status_code == 200 and "access-control-allow-origin" not in same.headers
    open_to_one = own_gateway(GATEWAY_CORS_ORIGINS="https://app.example", GATEWAY_WORKERS="1")
    rebound = {"origin": "http://evil.example:1", "host": "evil.example:1"}  # its own name, made to point here
    assert web.post(CHAT, json=ask("x"), headers=rebound).status_code == 403
    preflight = {"origin": "https://app.example", "access-control-request-method": "POST"}
    preflight["access-control-request-headers"] = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"
    answer = httpx.options(open_to_one.url + CHAT, headers=preflight, trust_env=False)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert (
        httpx.post(open_to_one.url + CHAT, json=ask("x"), headers={"origin": "https://b"}, trust_env=False).status_code
        == 403
    )


def test_the_model_of_a_request_chooses_a_lora_adapter(own_gateway: Start, fake: FakeTriton, tmp_path: Path) -> None:
    adapter = tiny_engine(tmp_path) / "lora/poet"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    url = own_gateway(ENGINE_DIR=str(tmp_path)).url
    with httpx.Client(base_url=url, trust_env=False, timeout=20) as web:
        listed = {each["id"]: each["parent"] for each in web.get("/v1/models").json()["data"]}
        assert listed["poet"] == "qwen-tiny" and listed["qwen"] is None
        for model, sent in (("poet", "poet"), ("qwen", None)):
            fake.requests.clear()
            assert web.post(CHAT, json=ask("x", model=model)).json()["model"] == model
            assert fake.requests[0].get("lora_name") == sent
        assert "poet" in web.post(CHAT, json=ask("x", model="nobody")).json()["error"]["message"]
