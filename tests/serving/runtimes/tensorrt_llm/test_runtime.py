"""The TensorRT-LLM adapter against a stand-in made from the published surface (not against the real thing: no GPU)."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import sys
import time
from pathlib import Path

import pytest

from contract.engine_dir import EngineInfo, EngineLimits, GpuInfo, ModelInfo, RuntimeInfo
from contract.errors import EngineDirectoryError, EngineUnavailable
from contract.paths import ROOT
from contract.sampling import Guide, Sampling
from serving.runtimes.base import CAPABILITIES, EngineRequest, RuntimeOptions

STANDINS = ROOT / "tests" / "standins"
END, END_OF_TEXT = 151645, 151643
MODEL_CONFIG = ROOT / "build_engine" / "data" / "qwen2.5-7b-instruct.config.json"
ENGINE, TORCH, TORCH_14 = ("engine", "1.2.1"), ("pytorch", "1.2.1"), ("pytorch", "1.4")
ALL = [ENGINE, TORCH, TORCH_14]


def forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt_llm"]:
        del sys.modules[name]


def write_engine(path: Path, backend: str, version: str = "1.2.1", kv_dtype: str = "bf16", **limits: int) -> EngineInfo:
    build = {"max_batch_size": 64, "max_num_tokens": 16384, "max_seq_len": 8192, "max_input_len": 8191} | limits
    folder = path / ("engine" if backend == "engine" else "checkpoint")
    folder.mkdir(parents=True)
    engine = {"version": version, "build_config": build, "pretrained_config": {"mapping": {"tp_size": 1}}}
    (folder / "config.json").write_text(json.dumps(engine))
    (path / "config.json").write_text(MODEL_CONFIG.read_text())
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [END, END_OF_TEXT]}))
    return EngineInfo(
        model=ModelInfo("qwen2.5-7b-instruct", "test", vocab_size=152064),
        runtime=RuntimeInfo("tensorrt_llm", version, backend),
        precision="fp8",
        kv_dtype=kv_dtype,
        limits=EngineLimits(8192, 8191, 64, 8192),
        gpu=GpuInfo("NVIDIA H100 80GB HBM3", 90, 1),
        path=path,
    )


class Harness:
    """A runtime on the stand-in, with what it delivered."""

    def __init__(
        self, path: Path, backend: str, version: str, options: RuntimeOptions, worker: bool = False, **create: bool
    ) -> None:
        self.steps, self.deaths = [], []
        module = importlib.import_module("serving.runtimes.tensorrt_llm.runtime")
        importlib.import_module("tensorrt_llm.control").worker_process = worker
        engine = write_engine(path, backend, version)
        self.runtime = module.create(engine, options, self.steps.append, self.deaths.append, **create)
        self.control = sys.modules["tensorrt_llm.control"]
        self.llm = self.control.llms[-1]

    def submit(self, sequence_id: int, prompt: list[int], **sampling) -> None:
        sampling = {"max_tokens": 8, "stop_token_ids": (END, END_OF_TEXT), "temperature": 0.0} | sampling
        self.runtime.submit(EngineRequest(sequence_id, prompt, Sampling(**sampling)))

    def deltas(self, sequence_id: int):
        return [delta for step in list(self.steps) for delta in step if delta.sequence_id == sequence_id]

    def wait(self, *sequence_ids: int, seconds: float = 10) -> None:
        until(lambda: all(any(d.finish_reason for d in self.deltas(i)) for i in sequence_ids), seconds)

    def tokens(self, sequence_id: int) -> list[int]:
        return [token for delta in self.deltas(sequence_id) for token in delta.token_ids]


def until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


@pytest.fixture
def start(monkeypatch, tmp_path):
    """``start(backend, version)`` → Harness. The stand-in's modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(STANDINS))
    made = []

    def build(backend="engine", version="1.2.1", options=None, **create) -> Harness:
        monkeypatch.setenv("STANDIN_TRTLLM_VERSION", version)
        forget()
        folder = tmp_path / f"engine{len(made)}"
        made.append(Harness(folder, backend, version, options or RuntimeOptions(), **create))
        return made[-1]

    forget()
    yield build
    for harness in made:
        harness.runtime.close()
    forget()


@pytest.fixture(params=ALL, ids=["engine", "pytorch-1.2.1", "pytorch-1.4"])
def harness(request, start) -> Harness:
    return start(*request.param)


def test_end_token_never_appears_and_counts_alike_on_every_backend(harness):
    for sequence_id, end in ((1, END), (2, END_OF_TEXT)):
        prompt = [10, sequence_id]
        harness.control.script[tuple(prompt)] = [5, 6, 7, end]
        harness.submit(sequence_id, prompt)
        harness.wait(sequence_id)
        assert harness.tokens(sequence_id) == [5, 6, 7]
        assert sum(delta.counted for delta in harness.deltas(sequence_id)) == 4
        assert [d.finish_reason for d in harness.deltas(sequence_id)][-1] == "stop"


def test_length_counts_exactly_max_tokens(harness):
    harness.submit(1, [1, 2, 3], max_tokens=5)
    harness.wait(1)
    assert len(harness.tokens(1)) == 5 == sum(delta.counted for delta in harness.deltas(1))
    assert harness.deltas(1)[-1].finish_reason == "length"
    assert sum(bool(d.finish_reason) for d in harness.deltas(1)) == 1


def test_ignore_eos_keeps_the_end_token_but_honours_the_callers_stop_ids(harness):
    harness.control.script[(4,)] = [END, 9, END_OF_TEXT, 77, 8]
    harness.submit(1, [4], ignore_eos=True, stop_token_ids=(77,), max_tokens=8)
    harness.wait(1)
    assert harness.tokens(1) == [END, 9, END_OF_TEXT]
    assert harness.deltas(1)[-1].finish_reason == "stop"


def test_own_end_id_replaces_the_models(harness):
    harness.control.script[(4,)] = [END, 42, 8]
    harness.submit(1, [4], stop_token_ids=(42,))
    harness.wait(1)
    assert harness.tokens(1) == [END]


def test_many_streams_are_delivered_in_shared_steps(harness):
    for sequence_id in range(40):
        harness.submit(sequence_id, [sequence_id, 1], max_tokens=12)
    harness.wait(*range(40))
    delivered = sum(len(step) for step in harness.steps)
    assert max(len(step) for step in harness.steps) >= 10
    assert delivered / len(harness.steps) > 3
    assert harness.runtime.stats().steps == len(harness.steps)
    assert harness.runtime.stats().generated_tokens == 40 * 12


def test_abort_drains_to_a_cancelled_delta_and_frees_the_request(harness):
    harness.submit(1, [1], max_tokens=4000)
    until(lambda: len(harness.tokens(1)) > 2)
    harness.runtime.abort(1)
    harness.runtime.abort(1)
    harness.runtime.abort(99)
    harness.wait(1)
    assert harness.deltas(1)[-1].finish_reason == "cancelled"
    until(lambda: not harness.llm.executor.requests)


def test_abort_right_after_submit_is_not_lost(harness):
    harness.submit(1, [1], max_tokens=100000)
    harness.runtime.abort(1)
    harness.wait(1)
    assert harness.deltas(1)[-1].finish_reason == "cancelled"


def test_abort_that_is_never_answered_is_given_up(harness, monkeypatch):
    monkeypatch.setattr("serving.runtimes.tensorrt_llm.core.DRAIN_S", 0.2)
    harness.control.hang_on_abort = True
    harness.submit(1, [1], max_tokens=4000)
    until(lambda: harness.tokens(1))
    harness.runtime.abort(1)
    harness.wait(1, seconds=3)
    assert [d.finish_reason for d in harness.deltas(1) if d.finish_reason] == ["cancelled"]


def test_request_error_ends_one_stream_and_no_other(harness):
    harness.control.errors[(6,)] = (3, "Token ID out of range")
    harness.submit(1, [6], max_tokens=20)
    harness.submit(2, [7], max_tokens=20)
    harness.wait(1, 2)
    assert harness.deltas(1)[-1].finish_reason == "error"
    assert "Token ID out of range" in harness.deltas(1)[-1].error
    assert len(harness.tokens(2)) == 20
    assert not harness.deaths


def test_queue_full_is_an_error_of_that_stream(start):
    harness = start("engine", options=RuntimeOptions(max_streams=1))
    harness.control.queue_limit = 0
    harness.submit(1, [1], max_tokens=2000)
    until(lambda: harness.tokens(1))
    harness.submit(2, [2])
    harness.wait(2)
    assert "Maximum queue size" in harness.deltas(2)[-1].error
    harness.runtime.abort(1)


def test_death_is_reported_once_and_later_submits_are_refused(harness):
    harness.control.die_at[(6,)] = 3
    harness.submit(1, [8], max_tokens=100000)
    harness.submit(2, [6], max_tokens=20)
    until(lambda: harness.deaths)
    assert len(harness.deaths) == 1 and "illegal memory access" in harness.deaths[0]
    count = len(harness.steps)
    with pytest.raises(EngineUnavailable):
        harness.submit(3, [1])
    time.sleep(0.1)
    assert len(harness.steps) == count and len(harness.deaths) == 1


def test_a_silent_executor_is_found_out(harness, monkeypatch):
    monkeypatch.setattr("serving.runtimes.tensorrt_llm.core.STALL_S", 0.3)
    harness.control.silent = True
    harness.control.stats_seconds = 3.0  # a dead executor does not answer questions either
    harness.submit(1, [1])
    until(lambda: harness.deaths, seconds=5)
    assert "no token" in harness.deaths[0]


@pytest.mark.parametrize("streams", [0, 3])
def test_a_killed_worker_is_noticed_although_sending_to_it_blocks(start, streams):
    """TensorRT-LLM says nothing, and the next request or abort blocks the loop in a ZMQ send."""
    harness = start("engine", worker=True)
    for sequence_id in range(streams):
        harness.submit(sequence_id, [sequence_id + 1], max_tokens=100000)
    until(lambda: all(harness.tokens(i) for i in range(streams)))
    harness.control.silent = True
    killed = time.monotonic()
    harness.llm.worker.process.kill()
    harness.llm.worker.process.wait()
    with contextlib.suppress(EngineUnavailable):  # it may have been noticed before
        harness.submit(99, [1])  # blocks the loop
    try:
        until(lambda: harness.deaths, seconds=5)
        assert time.monotonic() - killed < 5
        assert "worker process" in harness.deaths[0] and len(harness.deaths) == 1
        assert harness.runtime.stats().running == 0
        with pytest.raises(EngineUnavailable):
            harness.submit(100, [1])
        started = time.monotonic()
        harness.runtime.close()
        assert time.monotonic() - started < 20
    finally:
        harness.llm.worker.release()


def test_a_worker_that_ends_while_closing_is_no_death(start):
    harness = start("engine", worker=True)
    harness.runtime.close()
    harness.llm.worker.release()
    time.sleep(0.1)
    assert harness.deaths == []


def test_statistics_survive_a_time_out(start, monkeypatch, caplog):
    """``RPCTimeout`` derives from Exception alone; the poller must go on, and say so once."""
    monkeypatch.setattr("serving.runtimes.tensorrt_llm.core.WATCH_S", 0.02)
    harness = start("pytorch")
    harness.control.stats_failures = 3
    harness.submit(1, [1], max_tokens=100000)
    until(lambda: harness.runtime.stats().kv_blocks_total, seconds=5)
    assert harness.control.stats_failures == 0
    assert sum("gave no statistics" in record.message for record in caplog.records) == 1
    harness.runtime.abort(1)
    harness.wait(1)


def test_1_4_is_asked_for_its_health(start):
    harness = start(*TORCH_14)
    harness.control.healthy = False
    until(lambda: harness.deaths, seconds=5)
    assert "unhealthy" in harness.deaths[0]


def test_close_ends_open_streams_and_shuts_down_once(harness):
    harness.submit(1, [1], max_tokens=100000)
    until(lambda: harness.tokens(1))
    harness.runtime.close()
    harness.runtime.close()
    assert harness.deltas(1)[-1].finish_reason == "cancelled"
    assert harness.control.shutdowns == 1
    with pytest.raises(EngineUnavailable):
        harness.submit(2, [1])


def test_statistics_name_running_waiting_and_blocks(start):
    harness = start("pytorch", options=RuntimeOptions(max_streams=2))
    for sequence_id in range(3):
        harness.submit(sequence_id, [sequence_id], max_tokens=100000)
    until(lambda: harness.runtime.stats().kv_blocks_total, seconds=5)
    stats = harness.runtime.stats()
    assert (stats.running, stats.waiting) == (2, 1)
    assert stats.kv_blocks_total == 1000 and stats.kv_blocks_used > 0
    for sequence_id in range(3):
        harness.runtime.abort(sequence_id)
    harness.wait(0, 1, 2)
    assert harness.runtime.stats().kv_blocks_used == 0


def test_greedy_is_top_k_1_alone_and_sampling_says_all_three(harness):
    harness.submit(1, [1])
    harness.submit(2, [1], temperature=0.7, top_p=0.8, top_k=20, seed=9)
    harness.wait(1, 2)
    greedy, sampled = (call["sampling_params"] for call in harness.control.requests)
    assert (greedy.top_k, greedy.top_p, greedy.temperature) == (1, None, None)
    assert (sampled.top_k, sampled.top_p, sampled.temperature, sampled.seed) == (20, 0.8, 0.7, 9)
    assert greedy.end_id == END and greedy.stop_token_ids == [END_OF_TEXT]
    assert greedy is not sampled and not greedy.detokenize


def test_nothing_the_sampler_of_1_2_1_ignores_is_lost(start):
    """The default TorchSampler would drop these in silence; TRTLLMSampler must be in force."""
    harness = start("pytorch")
    harness.submit(
        1,
        [1],
        temperature=0.5,
        seed=3,
        repetition_penalty=1.05,
        presence_penalty=0.1,
        min_p=0.1,
        bad_words=((5,), (6, 7)),
    )
    harness.wait(1)
    assert harness.llm.args.sampler_type == "TRTLLMSampler"
    assert harness.control.unhonoured == []
    params = harness.control.requests[0]["sampling_params"]
    assert params.bad_token_ids == [5] and params._bad_word_ids == [[6, 7]]


def test_seeds_differ_and_repeat(harness):
    for sequence_id, seed in ((1, 5), (2, 5), (3, 6)):
        harness.submit(sequence_id, [1, 2], temperature=1.0, seed=seed)
    harness.wait(1, 2, 3)
    assert harness.tokens(1) == harness.tokens(2) != harness.tokens(3)


def test_log_probabilities_match_the_tokens(start):
    harness = start("pytorch")
    harness.control.script[(1,)] = [5, 6, END]
    harness.submit(1, [1], logprobs=1)
    harness.wait(1)
    flat = [value for delta in harness.deltas(1) for value in delta.logprobs]
    assert flat == [-0.1, -0.1] and not any(delta.top_logprobs for delta in harness.deltas(1))
    harness = start(*TORCH_14)
    harness.submit(2, [2], logprobs=4, max_tokens=2)
    harness.wait(2)
    tops = [top for delta in harness.deltas(2) for top in delta.top_logprobs]
    assert len(tops) == 2 and all(len(top) == 3 and top[0][1] >= top[1][1] for top in tops)


TAG = '{"type": "structural_tag", "format": {"type": "const_string", "value": "a"}}'
SERVED = CAPABILITIES - {"return_prompt_log_probs"}
CAPABLE = {
    ENGINE: SERVED - {"logprobs", "top_logprobs", "priority", "lora", "logit_bias"},
    TORCH: {name for name in SERVED if not name.startswith("guide")}
    - {"priority", "lora", "logit_bias", "top_logprobs"},
    TORCH_14: SERVED - {"lora", "logit_bias"},
}


@pytest.mark.parametrize("which", ALL)
def test_capabilities_are_truthful(start, which):
    assert start(*which).runtime.capabilities == CAPABLE[which]


def test_the_gate_gets_the_most_likely_tokens_of_the_pytorch_backend_too(start):
    """``TRTLLMSampler`` would give one entry, and a gate that compares one entry passes a damaged model."""
    harness = start(*TORCH, scoring=True)
    assert harness.llm.args.sampler_type != "TRTLLMSampler" and "top_logprobs" in harness.runtime.capabilities
    harness.submit(1, [1], logprobs=21, max_tokens=1, ignore_eos=True, stop_token_ids=())
    harness.wait(1)
    assert len(harness.deltas(1)[0].top_logprobs[0]) == 20
    assert set(harness.control.unhonoured) <= {"seed"}, "what the gate asks for is honoured, and greedy needs no seed"


def test_logits_are_gathered_only_for_the_accuracy_gate(start):
    harness = start("engine", scoring=True)
    assert "logprobs" in harness.runtime.capabilities
    assert harness.llm.args.gather_generation_logits is True
    assert start("engine").llm.args.gather_generation_logits is False


def test_engine_keeps_its_own_limits(start):
    llm = start("engine", options=RuntimeOptions(max_streams=256)).llm
    assert (llm.args.max_batch_size, llm.args.max_num_tokens) == (64, 16384)
    assert llm.args.max_seq_len is None and llm.args.enable_chunked_prefill is True
    assert start("engine", options=RuntimeOptions(max_streams=8)).llm.args.max_batch_size == 8


def test_a_latency_engine_uses_cuda_graphs(start, tmp_path):
    assert start("engine").llm.args.extended_runtime_perf_knob_config is None
    from serving.runtimes.tensorrt_llm import args, env

    engine = write_engine(tmp_path / "fast", "engine", max_batch_size=16)
    engine = dataclasses.replace(engine, runtime=RuntimeInfo("tensorrt_llm", "1.2.1", "engine", "latency"))
    found = args._engine(env.load("engine"), engine, RuntimeOptions())
    knobs = found["extended_runtime_perf_knob_config"]
    assert (knobs.cuda_graph_mode, knobs.cuda_graph_cache_size) == (True, 16)


def test_kv_cache_size_in_bytes_becomes_tokens(start):
    options = RuntimeOptions(kv_cache_bytes=57344 * 1000, gpu_memory_fraction=0.5)
    config = start("engine", options=options).llm.args.kv_cache_config
    assert (config.max_tokens, config.free_gpu_memory_fraction) == (1000, 0.5)


def test_priority_reaches_1_4_higher_first(start):
    harness = start(*TORCH_14)
    for sequence_id, value in enumerate((-3, 0, 4)):
        request = EngineRequest(sequence_id, [1], Sampling(max_tokens=1, temperature=0.0), priority=value)
        harness.runtime.submit(request)
    harness.wait(0, 1, 2)
    low, normal, high = (call["priority"] for call in harness.control.requests)
    assert 0 < low < normal == 0.5 < high < 1


@pytest.mark.parametrize(
    ("guide", "field", "value"),
    [
        (Guide("json", ""), "json_object", True),
        (Guide("json_schema", '{"type":"object"}'), "json", '{"type":"object"}'),
        (Guide("regex", "[0-9]+"), "regex", "[0-9]+"),
        (Guide("ebnf_grammar", 'root ::= "a"'), "grammar", 'root ::= "a"'),
        (Guide("structural_tag", TAG), "structural_tag", TAG),
    ],
)
def test_guides(start, guide, field, value):
    harness = start("engine")
    harness.submit(1, [1], guide=guide)
    harness.wait(1)
    assert harness.deltas(1)[-1].finish_reason == "length"
    assert getattr(harness.control.requests[0]["sampling_params"].guided_decoding, field) == value
    assert harness.llm.args.tokenizer == str(harness.llm.args.model).removesuffix("/engine")


def test_an_optional_guide_is_left_out(start):
    """One that does not compile would end all requests."""
    harness = start("engine")
    harness.submit(1, [1], guide=Guide("structural_tag", TAG, optional=True))
    harness.wait(1)
    assert harness.control.requests[0]["sampling_params"].guided_decoding is None


def test_an_engine_of_another_version_is_refused_in_one_line(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(STANDINS))
    forget()
    module = importlib.import_module("serving.runtimes.tensorrt_llm.runtime")
    engine = write_engine(tmp_path / "old", "engine", version="1.1.0")
    with pytest.raises(EngineDirectoryError, match=r"built by TensorRT-LLM 1\.1\.0, this is 1\.2\.1"):
        module.create(engine, RuntimeOptions(), print, print)
    monkeypatch.setenv("STANDIN_TRTLLM_VERSION", "1.4")
    forget()
    with pytest.raises(EngineDirectoryError, match="no longer loads engines"):
        module.create(engine, RuntimeOptions(), print, print)
    forget()


def test_without_tensorrt_llm_one_line_says_what_to_do(tmp_path):
    forget()
    module = importlib.import_module("serving.runtimes.tensorrt_llm.runtime")
    with pytest.raises(EngineDirectoryError, match="not installed here") as caught:
        module.create(write_engine(tmp_path / "e", "engine"), RuntimeOptions(), print, print)
    assert "\n" not in str(caught.value)


def test_unknown_keywords_fail_in_the_stand_in(start):
    """The stand-in is only worth something if a wrong name fails."""
    harness = start("engine")
    module = sys.modules["tensorrt_llm.sampling_params"]
    with pytest.raises(TypeError):
        module.SamplingParams(temprature=1.0)
    with pytest.raises(TypeError):
        harness.llm.generate_async(inputs=[1], sampling_params=module.SamplingParams(end_id=1), priority=0.5)
    with pytest.raises(ValueError, match="invalid argument: sampler_type"):
        type(harness.llm)(model=harness.llm.args.model, sampler_type="TRTLLMSampler")
