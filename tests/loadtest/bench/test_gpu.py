"""bench-gpu without a GPU: its arithmetic, its report, its client against a small server."""

from __future__ import annotations

import asyncio
import json
import math
import random
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from contract.model_shape import ModelShape
from contract.paths import ROOT
from loadtest.bench.gpu import __main__ as bench_gpu
from loadtest.bench.gpu import adapters, client, limits, options, report
from loadtest.bench.gpu.contenders import _from_vllm
from loadtest.bench.gpu.same_tokens import compare
from loadtest.bench.gpu.samples import TimedStream, summarize
from loadtest.errors import LoadtestError

CONFIG = json.loads((ROOT / "build_engine/data/qwen2.5-7b-instruct.config.json").read_text())


def test_a_run_is_counted_from_first_request_to_last_token():
    records = [
        TimedStream(0.0, 0.1, 1.1, 11, [0.1] * 10),
        TimedStream(0.5, 0.7, 2.0, 14, [0.1] * 13),
        TimedStream(0, 0, 0, 0, [], "x"),
    ]
    found = summarize(records)
    assert (found["requests"], found["errors"], found["tokens"]) == (2, 1, 25)
    assert found["tokens_per_s"] == 12.5
    assert found["tpot_ms"]["p50"] == pytest.approx(100.0)
    assert found["ttft_ms"]["p50"] == pytest.approx(150.0)


def test_nothing_but_errors_says_the_first():
    assert summarize([TimedStream(0, 0, 0, 0, [], "boom")]) == {"errors": 1, "first_error": "boom"}


def test_medians_and_spread():
    runs = [
        {"tokens_per_s": v, "tokens": 10, "cpu_s": 0.001, "errors": 0, "ttft_ms": {"p50": v}}
        for v in (90.0, 100.0, 110.0)
    ]
    row = report.medians(runs)
    assert (row["tokens_per_s"], row["spread"], row["ttft_ms"], row["cpu_ms_per_1k"]) == (
        100.0,
        0.2,
        {"p50": 100.0},
        100.0,
    )
    assert report.medians([{"errors": 3, "first_error": "e"}]) == {"rounds": 0, "errors": 3, "first_error": "e"}


def row(precision, streams, contender, run):
    load = {"sampling": "greedy", "load": str(client.Load(streams))}
    return {"precision": precision, "contender": contender} | load | report.medians([run])


def test_table_and_chart_hold_every_row():
    rows = [
        row(p, n, c, {"tokens_per_s": 5.0 * n, "errors": 0})
        for p in ("fp8", "bf16")
        for n in (1, 256)
        for c in ("vllm-serve", "ours-grpc")
    ]
    rows.append(row("bf16", 1, "transformers", {"errors": 3, "first_error": "e"}))
    assert report.markdown(rows).count("\n") == 2 + len(rows)
    svg = ElementTree.fromstring(report.chart(rows))
    assert len(svg.findall(".//{http://www.w3.org/2000/svg}title")) == len(rows) - 1
    assert report.value(rows[0], "errors") == 0


def test_goodput_counts_requests_that_were_quick_enough():
    quick, late, slow = TimedStream(0, 0.4, 1.4, 101), TimedStream(0, 0.6, 1.6, 101), TimedStream(0, 0.1, 2.0, 21)
    found = summarize([quick, late, slow])
    assert (found["requests_per_s"], found["goodput_per_s"]) == (1.5, 0.5)


def test_the_bytes_of_a_step_are_those_of_the_7b():
    bf16, fp8 = (limits.Traffic(ModelShape.of(CONFIG), precision) for precision in ("bf16", "fp8"))
    assert bf16.kv(1) == 2 * 28 * 4 * 128 * 2  # two tensors, layers, KV heads, head size, bytes
    assert math.isclose(bf16.weights / 2e9, 7.07, rel_tol=0.01)  # 7.6e9 parameters less the embedding table
    assert fp8.weights < 0.55 * bf16.weights
    assert bf16.tokens_per_s(1, 0, bf16.weights) == 1.0


def test_vllms_own_result_is_read():
    quantiles = {f"p{q}_{n}_ms": float(q) for q in (50, 90, 99) for n in ("ttft", "tpot", "itl")}
    found = _from_vllm(
        {"completed": 2, "total_output_tokens": 8, "duration": 2.0, "output_throughput": 4.0} | quantiles
    )
    assert found["tokens_per_s"] == 4.0 and found["itl_ms"] == {"p50": 50.0, "p90": 90.0, "p99": 99.0}


def test_differences_are_placed():
    left = [{"ids": [1, 2, 3], "margins": [2.0, 1.0, 3.0]}, {"ids": [4, 5, 6], "margins": [2.0, 0.125, 1.0]}]
    right = [{"ids": [1, 2, 3], "margins": []}, {"ids": [4, 9, 6], "margins": []}]
    found = compare(left, right)
    assert (found["equal"], found["answers"], found["first_difference"]) == (1, 2, [None, 1])
    assert (found["median_margin"], found["margins_at_difference"]) == (1.5, [0.125])
    assert compare(right, left)["median_margin"] is None


async def answer(reader, writer):
    """One kept-alive connection of an OpenAI server: 400 for the prompt "bad", else three tokens in two messages."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = json.loads(await reader.readexactly(size))
        if body["prompt"] == "bad":
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 9\r\nConnection: close\r\n\r\nnot today")
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        choice = b'data: {"choices":[{"text":"a"}]}\n\n'
        usage = b'data: {"choices":[],"usage":{"completion_tokens":3}}\n\ndata: [DONE]\n\n'
        for part in (choice, choice, usage):
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def ask(prompts, max_tokens=3):
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    session = client._Sse(client.BenchTarget("sse", f"127.0.0.1:{port}", "m", max_tokens))
    records = []
    for prompt in prompts:
        records.append(TimedStream(0.0, 0.0, 0.0, 0))
        await session.stream(prompt, records[-1])
    await session.close()
    server.close()
    return records


async def test_the_sse_client_counts_the_servers_tokens_and_keeps_the_connection():
    first, second = await ask(["a", "b"])
    assert (first.tokens, len(first.gaps), second.tokens) == (3, 1, 3)


@pytest.mark.parametrize(("prompt", "tokens", "says"), [("bad", 3, "400.*not today"), ("a", 4, "3 of 4 tokens")])
async def test_a_refusal_and_a_lost_token_are_errors(prompt, tokens, says):
    with pytest.raises(RuntimeError, match=says):
        await ask([prompt], tokens)


async def test_an_open_loop_sends_each_prompt_at_its_own_time(monkeypatch):
    sent = []

    class Session:
        def __init__(self, target, sampling):
            assert sampling == "defaults"

        async def open(self): ...
        async def close(self): ...

        async def stream(self, prompt, record):
            sent.append(record.start)
            await asyncio.sleep(0.5)  # slower than they arrive: nobody waits for the one before

    monkeypatch.setattr(client, "_Sse", Session)
    load = client.Load(rate=100.0, sampling="defaults")
    target = client.BenchTarget("sse", "127.0.0.1:1", "m", 3)
    records = await client._loop(target, ["p"] * 20, load, random.Random(1), type("B", (), {"wait": lambda _: None})())
    assert len(records) == 20 and not any(record.error for record in records)
    assert sent[-1] - sent[0] < 0.5 + 0.4


def test_adapters_fit_the_model(tmp_path):
    small = CONFIG | {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
                      "num_key_value_heads": 2}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(small))
    ((name, directory),) = adapters.write(tmp_path, tmp_path, 1)
    data = (directory / "adapter_model.safetensors").read_bytes()
    made = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert made.pop("__metadata__")
    prefix = "base_model.model.model.layers.0"
    assert name == "adapter-1" and len(made) == 14
    assert made[f"{prefix}.self_attn.k_proj.lora_B.weight"]["shape"] == [32, adapters.RANK]
    assert made[f"{prefix}.mlp.down_proj.lora_A.weight"]["shape"] == [adapters.RANK, 96]
    assert made[f"{prefix}.mlp.up_proj.lora_B.weight"]["shape"] == [96, adapters.RANK]


def test_contenders_of_several_precisions_are_alternated_on_ports_of_their_own(tmp_path):
    named = "--contenders ours-grpc:fp8 ours-gateway:fp8 vllm-serve --together --precision fp8 fp8-dynamic"
    args = options.parse("", [*named.split(), "--answers", "128x1024", "--rates", "40", "--out", str(tmp_path)])
    bench = bench_gpu.Bench(args)
    found = [
        one for number, precision in enumerate(args.precision)
        for one in bench._contenders(tmp_path, precision, bench_gpu.PORTS * number)
    ]  # fmt: skip
    assert [(one.label, one.precision) for one in found] == [
        ("vllm-serve", "fp8"), ("ours-grpc", "fp8"), ("ours-gateway", "fp8"), ("vllm-serve", "fp8-dynamic"),
    ]  # fmt: skip
    ports = [one.setup.port for one in found if one.label != "ours-gateway"]
    assert len(set(ports)) == len(ports)
    assert client.Load(128, sampling="defaults", tokens=1024) in bench._loads()
    assert str(client.Load(128, tokens=1024)) == "128 streams, 1,024 tokens"


@pytest.mark.parametrize(
    "wrong", ["--answers 128", "--answers x5", "--contenders ours", "--contenders vllm-serve:int8",
              "--contenders ours-gateway:fp8 ours-grpc:bf16"],
)  # fmt: skip
def test_a_wrong_choice_of_contenders_or_answers_is_one_line(wrong, capsys):
    with pytest.raises(SystemExit):
        options.parse("", wrong.split())
    assert wrong.split()[0] in capsys.readouterr().err


class FakeContender:
    def __init__(self, label, precision, setup):
        self.label, self.precision, self.setup, self.seed_shift, self.name = label, precision, setup, 0, label
        self.seen = []

    def launch(self):
        self.seen.append("launched")

    def wait(self):
        if self.label == "vllm-offline":
            raise LoadtestError("it did not start")

    def stop(self):
        self.seen.append("stopped")

    def weights_gib(self):
        return 8.0

    def cpu_seconds(self):
        return 0.0

    def run(self, prompts, load):
        self.seen.append(str(load))
        if load.tokens:
            raise RuntimeError("no room")
        tokens = 100 * len(prompts.ids)
        return {"tokens_per_s": 50.0, "tokens": tokens, "errors": 0, "ttft_ms": {"p50": 1.0}, "tpot_ms": {"p50": 2.0}}


def bench_of_fakes(command, tmp_path, monkeypatch):
    """The benchmark and, once it has made them, its contenders."""
    bench = bench_gpu.Bench(options.parse("", [*command.split(), "--sampling", "defaults", "--out", str(tmp_path)]))
    made = []

    def contenders(engine, precision, offset):
        labels = ("ours-grpc", "vllm-serve", "vllm-offline")
        made.extend(FakeContender(label, precision, None) for label in labels)
        return made[-3:]

    monkeypatch.setattr(bench, "_contenders", contenders)
    bench.config, bench.facts["copy_bandwidth_gb_s"] = CONFIG, 3000.0
    bench.prompts = SimpleNamespace(make=lambda count, *_, **__: SimpleNamespace(ids=[[1]] * count))
    return bench, made


def test_a_deadline_that_loading_has_used_up_leaves_one_round(tmp_path, monkeypatch):
    """Minutes on a lent GPU ended in an empty table."""
    bench, made = bench_of_fakes("--rounds 3 --streams 1 4 --deadline 0.001", tmp_path, monkeypatch)
    bench.began -= 60
    bench._group({"fp8": tmp_path})
    assert made[0].seen.count("1 streams") == 1 and made[0].seen.count("4 streams") == 2  # one is the warm-up's


def test_a_group_is_loaded_at_once_measured_in_turn_and_stopped_whatever_fails(tmp_path, monkeypatch):
    command = (
        "--precision fp8 fp8-dynamic --together --rounds 2 --streams 1 4 --rates 5 --rate-seconds 1 --answers 2x64"
    )
    bench, made = bench_of_fakes(command, tmp_path, monkeypatch)
    bench._group({"fp8": tmp_path, "fp8-dynamic": tmp_path})
    bench.write()
    assert all(one.seen[0] == "launched" and one.seen[-1] == "stopped" for one in made)
    assert made[0].seen.count("4 streams") == made[4].seen.count("4 streams") == 3  # a warm-up and two rounds
    assert made[0].seen.count("2 streams, 64 tokens") == 1  # other lengths are measured once
    rows = json.loads((tmp_path / "bench_gpu.json").read_text())["rows"]
    assert [(row["load"], row["contender"], row["precision"]) for row in rows[:4]] == [
        ("1 streams", "vllm-serve", "fp8"), ("1 streams", "vllm-serve", "fp8-dynamic"),
        ("1 streams", "ours-grpc", "fp8"), ("1 streams", "ours-grpc", "fp8-dynamic"),
    ]  # fmt: skip
    assert {row["load"]: row["first_error"] for row in rows if "first_error" in row} == {
        "2 streams, 64 tokens": "no room"
    }
    assert len(bench.facts["missing"]) == 2 and bench.weights["fp8"]["ours-grpc"] == 8.0


def test_why_some_requests_failed_stands_beside_how_many() -> None:
    good, bad = TimedStream(0.0, 0.1, 1.0, 4), TimedStream(0.0, 0.0, 0.0, 0, error="RuntimeError: 3 of 4 tokens")
    seen = summarize([good, bad])
    assert seen["errors"] == 1 and seen["first_error"] == "RuntimeError: 3 of 4 tokens"
    assert summarize([good])["errors"] == 0 and "first_error" not in summarize([good])
