"""A wrong value on a benchmark's command line is one line and exit code 2, whichever benchmark it is."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from contract.paths import ROOT

WRONG = [
    ("gpu.engines", ["--work", "/tmp/w", "--tp", "0"], "--tp: '0' is not a whole number of at least 1"),
    ("gpu.features", ["/tmp/e", "--kv-gb", "much"], "--kv-gb: 'much' is not a number above 0"),
    ("gpu.same_tokens", ["compare", "one.json"], "compare needs two files of answers; got 1"),
    ("gpu.same_tokens", ["offline", "--out", "x.json"], "offline needs --out, and --engine"),
    ("gpu.same_tokens", ["answers", "--engine", "/tmp/e"], "answers needs --out, and --engine or --tokenizer"),
    ("gpu.soak", ["--seconds", "-1"], "--seconds: '-1' is not a number above 0"),
    ("strategies.chunked", ["--step-tokens", "64"], "the following arguments are required: --engine"),
    ("strategies.one_by_one", ["--model", "m", "--dtype", "int3"], "--dtype: invalid choice: 'int3'"),
]


@pytest.mark.parametrize(("module", "typed", "says"), WRONG)
def test_a_wrong_value_is_one_line(
    module: str, typed: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, *typed])
    with pytest.raises(SystemExit) as ended:
        import_module(f"loadtest.bench.{module}").main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith(f"python -m loadtest.bench.{module}: {says}") and line.endswith("--help lists the options")


@pytest.mark.parametrize("typed", [("gpu.features",), ("strategies.chunked", "--step-tokens", "64", "--engine")])
def test_a_missing_engine_is_one_line(
    typed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [*typed, "/nowhere"])
    with pytest.raises(SystemExit) as ended:
        import_module(f"loadtest.bench.{typed[0]}").main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and "/nowhere" in line


def test_plain_locust_says_it_in_one_line_too() -> None:
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--bogus"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("unrecognized arguments: --bogus; --help lists the options")
    assert "usage:" not in done.stderr
