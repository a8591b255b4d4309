"""The probe as a whole: its rows, file and exit code, with the container's part played by functions."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from build_engine.tensorrt_llm.probe import __main__ as probe
from build_engine.tensorrt_llm.probe import findings
from build_engine.tensorrt_llm.probe.findings import ProbeResult
from contract import gpus
from contract.errors import BuildError

ROWS = [ProbeResult("a", "pass", "x"), ProbeResult("b", "differs", "y", "do this")]


def test_the_table_the_file_and_the_exit_code(tmp_path):
    findings.write(ROWS, tmp_path / "probe.json")
    assert findings.read(tmp_path / "probe.json") == ROWS and findings.exit_code(ROWS) == 0
    assert findings.exit_code([*ROWS, ProbeResult("c", "fail", "z", "do that")]) == 1
    findings.show(ROWS, console := Console(record=True, width=120))
    assert "do this" in console.export_text()


def test_precisions_follow_the_gpu():
    assert ("fp8", "engine") in probe.kinds(gpus.by_name("h100")) and ("int8_sq", "engine") in probe.kinds(
        gpus.by_name("a100")
    )
    assert not any(precision == "fp8" for precision, _ in probe.kinds(gpus.by_name("a100")))


def test_an_engine_that_cannot_be_asked_is_a_failure_with_its_last_line(tmp_path):
    (tmp_path / "e").mkdir()
    [finding] = probe.ask(tmp_path / "e", "answers", "e")
    assert finding.status == "fail" and "no engine at" in finding.found


def test_a_build_that_fails_is_a_failure_with_its_last_line(tmp_path):
    [finding] = probe.build(tmp_path / "no-model", tmp_path / "out", "bf16", "engine")
    assert finding.status == "fail" and finding.found.startswith("error: ")


def test_a_host_without_gpu_and_docker_says_both_and_starts_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probe.main(["--out", str(tmp_path / "p")]) == 1
    rows = findings.read(tmp_path / "p" / "probe.json")
    assert [(row.check, row.status, row.found) for row in rows] == [
        ("GPU", "fail", "none visible"), ("Docker", "fail", "Docker is not installed"),
    ]  # fmt: skip
    assert rows[1].remedy == "install docker-ce and nvidia-container-toolkit"


def test_a_container_without_tensorrt_llm_is_told_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(gpus, "detect", list)
    row = next(iter(probe.probe(tmp_path)))
    assert (row.check, row.status, row.found) == ("version", "fail", "none")
    assert "--extra-index-url https://pypi.nvidia.com" in row.remedy and "only a stub" in row.remedy


@pytest.fixture
def docker(monkeypatch, tmp_path):
    """Plays `docker`: writes what the containers would, and remembers their command lines."""
    commands, written = [], {}

    def run(command):
        commands.append(command)
        for name in ("probe.json", "uid-12345/rows.json"):
            wanted = "probe.triton" in " ".join(command) if "uid" in name else command[-1] == str(tmp_path)
            if wanted and name in written:
                findings.write(written[name], tmp_path / name)

    monkeypatch.setattr(probe, "in_container", run)
    monkeypatch.setattr(probe, "host_faults", lambda: iter(()))
    monkeypatch.setattr(probe.os, "getuid", lambda: 1000)
    return commands, written


def test_on_a_docker_host_a_second_container_tries_a_user_without_a_name(docker, tmp_path, capsys):
    commands, written = docker
    (tmp_path / probe.FIRST).mkdir()
    (tmp_path / probe.FIRST / "engine.json").write_text("{}")
    written["probe.json"] = ROWS
    written["uid-12345/rows.json"] = [ProbeResult("stub", "fail", "no home", "send")]
    assert probe.main(["--out", str(tmp_path)]) == 1
    users = [command[command.index("--user") + 1] for command in commands if "--user" in command]
    assert users == [f"1000:{probe.os.getgid()}", "12345:12345"]
    assert [row["check"] for row in json.loads((tmp_path / "probe.json").read_text())] == ["a", "b", "stub"]
    assert "do this" in capsys.readouterr().out
    assert (tmp_path / "uid-12345").stat().st_mode & 0o777 == 0o777


def test_a_second_container_that_says_nothing_is_a_failure(docker, tmp_path):
    _, written = docker
    (tmp_path / probe.FIRST).mkdir()
    (tmp_path / probe.FIRST / "engine.json").write_text("{}")
    written["probe.json"] = ROWS
    assert probe.main(["--out", str(tmp_path)]) == 1
    assert json.loads((tmp_path / "probe.json").read_text())[-1]["found"] == "no result"


def test_a_container_that_writes_nothing_is_one_line(docker, tmp_path):
    with pytest.raises(BuildError, match=r"wrote no .*probe\.json"):
        probe.main(["--out", str(tmp_path)])
