"""How bench-gpu starts vLLM's own server."""

from __future__ import annotations

import json

import pytest

from loadtest.bench.gpu import __main__ as bench_gpu
from loadtest.bench.gpu import options, report, vllm_serve
from loadtest.bench.gpu.contenders import Setup


@pytest.mark.parametrize(("gpus", "told"), [(1, {}), (2, {"VLLM_FLASHINFER_ALLREDUCE_BACKEND": "trtllm"})])
def test_vllms_own_server_is_told_of_several_gpus_what_our_runtime_is_told(gpus, told, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_serve.metadata, "version", lambda _: "0.26.0")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "engine.json").write_text(
        json.dumps({"limits": {"max_seq_len": 64, "max_num_tokens": 64}, "gpu": {"tensor_parallel": gpus}})
    )
    setup = Setup(tmp_path, 0, 1 << 30, 8, 16, tmp_path)
    server = vllm_serve.VllmServe(setup, "fp8")
    command = server.arguments()
    assert command[command.index("--tensor-parallel-size") + 1] == str(gpus)
    assert server.environment == told


def test_vllms_other_frontend_and_its_coarser_stream_are_measured_where_they_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_serve.metadata, "version", lambda _: "0.26.0")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "engine.json").write_text(json.dumps({"limits": {"max_seq_len": 64, "max_num_tokens": 64}}))
    default = {name for name, _ in options.parse("", []).contenders}
    assert "vllm-serve" in default and not default & {"vllm-serve-rust", "vllm-serve-interval"}
    args = options.parse("", ["--contenders", *report.CONTENDERS[2:5], "--precision", "fp8", "--out", str(tmp_path)])
    plain, rust, coarse = bench_gpu.Bench(args)._contenders(tmp_path, "fp8", 0)
    assert len({one.setup.port for one in (plain, rust, coarse)}) == 3
    assert [one.setup.port < args.port + bench_gpu.PORTS for one in (plain, rust, coarse)] == [True] * 3
    shared, with_rust, with_interval = (one.arguments() for one in (plain, rust, coarse))
    assert plain.environment == coarse.environment == {} and rust.environment == {"VLLM_USE_RUST_FRONTEND": "1"}
    assert "--generation-config" in shared and "--generation-config" not in with_rust, "it ends at it"
    assert len(with_rust) == len(shared) - 2
    assert with_interval[-2:] == ["--stream-interval", "8"]
