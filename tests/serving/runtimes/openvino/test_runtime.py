"""The CPU runtime as the serving layer sees it: a worker process, guides, stress, death."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tokenizers import Tokenizer

from build_engine.openvino import build as openvino_build
from build_engine.spec import BuildSpec
from contract import engine_dir
from contract.chunks import Job
from contract.errors import EngineDirectoryError, EngineUnavailable, InvalidRequest, from_wire
from contract.paths import ROOT
from contract.sampling import ANY_OBJECT, Guide, Sampling
from serving import runtimes
from serving.runtimes.base import EngineRequest, RuntimeOptions, SequenceDelta
from serving.runtimes.openvino import runtime as openvino
from serving.streaming.validation import fit
from tests.waiting import until

END = (151645, 151643)
PROMPT = list(range(1000, 1020))
OPTIONS = RuntimeOptions(max_streams=64, kv_cache_bytes=1 << 20)  # small: the stress test preempts


class Collector:
    """Gathers deltas per stream and checks that nothing follows a stream's last one."""

    def __init__(self) -> None:
        self.deltas: dict[int, list[SequenceDelta]] = {}
        self.deaths: list[str] = []
        self._changed = threading.Condition()

    def on_step(self, deltas: list[SequenceDelta]) -> None:
        with self._changed:
            for delta in deltas:
                before = self.deltas.setdefault(delta.sequence_id, [])
                assert not before or before[-1].finish_reason is None
                before.append(delta)
            self._changed.notify_all()

    def on_death(self, reason: str) -> None:
        with self._changed:
            self.deaths.append(reason)
            self._changed.notify_all()

    def wait(self, *streams: int, seconds: float = 60) -> None:
        def ended() -> bool:
            return all(self.deltas.get(s) and self.deltas[s][-1].finish_reason for s in streams)

        with self._changed:
            assert self._changed.wait_for(ended, seconds), "streams did not end"

    def wait_for_death(self, seconds: float) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self.deaths), seconds), "nobody noticed the death"

    def ids(self, stream: int) -> list[int]:
        return [token for delta in self.deltas[stream] for token in delta.token_ids]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return openvino_build.build(
        BuildSpec("synthetic", "int8", "openvino", tmp_path_factory.mktemp("engine") / "e", context=512)
    )


@pytest.fixture(scope="module")
def loaded(directory: Path) -> Iterator[tuple[openvino.OpenVinoRuntime, Collector]]:
    collector = Collector()
    runtime = runtimes.load(engine_dir.read(directory), OPTIONS, collector.on_step, collector.on_death)
    assert isinstance(runtime, openvino.OpenVinoRuntime)
    yield runtime, collector
    pid = runtime.pid
    runtime.close()
    runtime.close()
    assert not psutil.pid_exists(pid) and not collector.deaths
    with pytest.raises(EngineUnavailable, match="closed"):
        runtime.submit(EngineRequest(1, PROMPT, Sampling(4)))


Loaded = tuple[openvino.OpenVinoRuntime, Collector]
_numbers = iter(range(1, 1_000_000))


def ask(loaded: Loaded, **more: object) -> int:
    number = next(_numbers)
    sampling = Sampling(**{"max_tokens": 8, "temperature": 0.0, "stop_token_ids": END, **more})
    loaded[0].submit(EngineRequest(number, PROMPT, sampling))
    return number


def test_malloc_is_tuned_behind_what_the_user_set(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = psutil.Process(loaded[0].pid).environ()["GLIBC_TUNABLES"]
    assert variable.split(":")[0] == openvino.MALLOC
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    assert openvino.joined(":", "a", "GLIBC_TUNABLES") == "a:glibc.malloc.check=1"


def test_a_stream_comes_token_by_token(loaded: Loaded) -> None:
    number = ask(loaded, logprobs=3)
    loaded[1].wait(number)
    deltas = loaded[1].deltas[number]
    assert [len(d.token_ids) for d in deltas] == [1] * 8 and sum(d.counted for d in deltas) == 8
    assert all(d.logprobs[0] == pytest.approx(d.top_logprobs[0][0][1]) for d in deltas)
    assert deltas[-1].finish_reason == "length" and loaded[0].limits.max_seq_len == 512


def test_grammars_compile_in_a_thread_that_gives_way_to_steps(loaded: Loaded) -> None:
    """Compiling takes up to a second of processor time."""
    process = psutil.Process(loaded[0].pid)
    nice = [os.getpriority(os.PRIO_PROCESS, thread.id) for thread in process.threads()]
    assert sum(value > process.nice() for value in nice) == 1


@pytest.mark.parametrize(
    ("kind", "guide", "check"),
    [
        ("json_schema", '{"enum": ["red", "green"]}', lambda text: json.loads(text) in ("red", "green")),
        (
            "json_schema",
            '{"type":"object","properties":{"a":{"type":"integer","maximum":99},"b":{"type":"boolean"}},'
            '"required":["a","b"],"additionalProperties":false}',
            lambda text: set(json.loads(text)) == {"a", "b"},
        ),
        ("json", ANY_OBJECT, lambda text: text.startswith("{")),
        ("regex", "(yes|no) [0-9]{3}", lambda text: text[:2] in ("ye", "no") and text[-3:].isdigit()),
        ("ebnf_grammar", 'root ::= "a" [b-d] "é"', lambda text: text[0] == "a" and text[2:] == "é"),
        (
            "structural_tag",
            '{"format":{"type":"sequence","elements":[{"type":"const_string","value":"<b>"},'
            '{"type":"json_schema","json_schema":{"enum":[1,"x"]}}]}}',
            lambda text: text in ("<b>1", '<b>"x"'),
        ),
    ],
)
def test_guided_answers_obey(loaded: Loaded, directory: Path, kind: str, guide: str, check: object) -> None:
    number = ask(loaded, guide=Guide(kind, guide), max_tokens=120, temperature=1.0, seed=3)
    loaded[1].wait(number)
    text = Tokenizer.from_file(str(directory / "tokenizer.json")).decode(loaded[1].ids(number))
    assert callable(check) and check(text), text
    assert kind == "json" or loaded[1].deltas[number][-1].finish_reason == "stop"


def test_a_guide_that_never_ends_ends_with_the_context(loaded: Loaded) -> None:
    job = Job(Sampling(max_tokens=0, temperature=0.0, stop_token_ids=END, guide=Guide("regex", "[0-9]{600}")))
    number = next(_numbers)
    loaded[0].submit(EngineRequest(number, PROMPT, fit(job, PROMPT, loaded[0])))
    loaded[1].wait(number)
    assert loaded[1].deltas[number][-1].finish_reason == "length"
    assert len(PROMPT) + len(loaded[1].ids(number)) == loaded[0].limits.max_seq_len


@pytest.mark.parametrize(
    ("kind", "guide"),
    [
        ("json_schema", "{"), ("json_schema", "[]"), ("json_schema", '{"type": "objct"}'), ("regex", "[a-"),
        ("ebnf_grammar", "root ::= foo"), ("ebnf_grammar", ""), ("structural_tag", "[]"),
        ("structural_tag", '{"format": {"type": "any_text"}}'),
    ],
)  # fmt: skip
def test_a_bad_guide_is_refused_and_the_next_request_unharmed(loaded: Loaded, kind: str, guide: str) -> None:
    refused, optional = (ask(loaded, guide=Guide(kind, guide, skip)) for skip in (False, True))
    loaded[1].wait(refused, optional, ask(loaded))
    error = from_wire(loaded[1].deltas[refused][-1].error)
    assert isinstance(error, InvalidRequest)
    assert re.match(f"guided_decoding_guide: .*is not a valid {kind}", str(error)), error
    assert loaded[1].deltas[optional][-1].finish_reason == "length", "an optional one is left out"


def test_a_guide_that_would_slow_every_step_delays_nobody(loaded: Loaded) -> None:
    """Its automaton takes seconds to build: another request begins and ends meanwhile."""
    slow = Guide("regex", "((a{100}){100}){100}")
    guided, given_up = ask(loaded, guide=slow), ask(loaded, guide=Guide("regex", "a{3}"))
    loaded[0].abort(given_up)
    other = ask(loaded, max_tokens=2)
    loaded[1].wait(other)
    assert not loaded[1].deltas.get(guided)
    loaded[1].wait(guided, given_up)
    assert "takes too long for each token" in loaded[1].deltas[guided][-1].error
    assert loaded[1].deltas[given_up][-1].finish_reason == "cancelled"


def test_abort_ends_a_stream_once(loaded: Loaded) -> None:
    number = ask(loaded, max_tokens=400)
    while number not in loaded[1].deltas:
        time.sleep(0.005)
    started = time.monotonic()
    loaded[0].abort(number)
    loaded[0].abort(number)
    loaded[1].wait(number, seconds=2)
    assert time.monotonic() - started < 1
    assert loaded[1].deltas[number][-1].finish_reason == "cancelled"


def test_300_requests_with_cancellations_leave_nothing_behind(loaded: Loaded) -> None:
    """From four threads, on a cache too small for them; every stream ends once and all blocks are free."""
    runtime, collector = loaded
    numbers = [next(_numbers) for _ in range(300)]
    threads = [threading.Thread(target=traffic, args=(runtime, numbers[i::4], i)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    collector.wait(*numbers, seconds=200)
    assert {collector.deltas[number][-1].finish_reason for number in numbers} == {"length", "cancelled"}
    until(lambda: not runtime.stats().running)
    stats = runtime.stats()
    assert (stats.running, stats.waiting, stats.kv_blocks_used) == (0, 0, 0)


def test_counters_follow_a_stream(loaded: Loaded) -> None:
    """They come with the steps in which sequences begin and end, and now and then between."""
    runtime, collector = loaded
    before, steps = runtime.stats(), set()
    number = ask(loaded, max_tokens=400)
    until(lambda: number in collector.deltas)
    assert runtime.stats().running == 1
    while not collector.deltas[number][-1].finish_reason:
        steps.add(runtime.stats().steps)
        time.sleep(0.001)
    after = runtime.stats()
    assert len(steps) > 2 and after.running == 0 and after.generated_tokens == before.generated_tokens + 400
    assert len(steps) < 400 / 2, "not with every step"


def traffic(runtime: openvino.OpenVinoRuntime, numbers: list[int], seed: int) -> None:
    rng = random.Random(seed)
    shared = list(range(2000, 2064))
    for number in numbers:
        prompt = shared[: rng.randint(1, 64)] + [rng.randrange(150_000) for _ in range(rng.randint(1, 40))]
        runtime.submit(EngineRequest(number, prompt, Sampling(rng.randint(1, 10), top_k=20, seed=number)))
        if rng.random() < 0.2:
            runtime.abort(number)


def test_sigkill_is_noticed_at_once(directory: Path) -> None:
    collector = Collector()
    runtime = openvino.OpenVinoRuntime(engine_dir.read(directory), OPTIONS, collector.on_step, collector.on_death)
    runtime.submit(EngineRequest(1, PROMPT, Sampling(400)))
    while 1 not in collector.deltas:
        time.sleep(0.005)
    os.kill(runtime.pid, signal.SIGKILL)
    collector.wait_for_death(1.0)
    assert "signal 9" in collector.deaths[0]
    with pytest.raises(EngineUnavailable):
        runtime.submit(EngineRequest(2, PROMPT, Sampling(4)))
    runtime.abort(1)
    runtime.close()
    assert len(collector.deaths) == 1


def test_the_worker_dies_with_its_parent(directory: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from contract import engine_dir; from serving import runtimes\n"
        "from serving.runtimes.base import RuntimeOptions\n"
        f"e = engine_dir.read(Path({str(directory)!r}))\n"
        "r = runtimes.load(e, RuntimeOptions(kv_cache_bytes=1 << 20), print, print)\n"
        "print(r.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    pid = int(done.stdout)
    until(lambda: not psutil.pid_exists(pid))


def test_an_engine_that_does_not_load_says_why(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory, tmp_path / "e")
    (tmp_path / "e" / "openvino_model.xml").write_text("<net")
    with pytest.raises(EngineDirectoryError, match="the openvino engine does not load"):
        openvino.create(engine_dir.read(tmp_path / "e"), OPTIONS, lambda _: None, lambda _: None)


def test_interpreter_is_not_the_triton_stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/triton_python_backend_stub")
    monkeypatch.delenv("PYTHON_EXECUTABLE", raising=False)
    assert openvino.interpreter() == f"{sys.prefix}/bin/python3"
    monkeypatch.setenv("PYTHON_EXECUTABLE", "/bin/sh")
    assert openvino.interpreter() == "/bin/sh"
