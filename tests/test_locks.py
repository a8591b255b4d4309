"""The lock files (`make lock`) hold every pin of pyproject.toml, with hashes; GPU extras agree with versions.toml."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement

from contract.paths import ROOT
from contract.versions import pinned, read_toml
from serving.launch import bootstrap

PYTHONS = ("3.10", "3.11", "3.12")


def locked(extra: str, python: str) -> dict[str, str]:
    text = (ROOT / "locks" / f"{extra}-{python}.txt").read_text()
    parts = [part for part in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE) if part.strip()]
    assert all("--hash=sha256:" in part for part in parts), "pip --require-hashes refuses a line without one"
    return {name.lower().replace("_", "-"): version for name, version in (p.split()[0].split("==") for p in parts)}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", ["server", "loadtest", "dev", "otel", "vllm"])
def test_every_pin_is_locked(extra, python):
    found = locked("server", python) | locked(extra, python)
    for pin in map(Requirement, bootstrap.requirements([] if extra == "server" else [extra])):
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            name = pin.name.lower().replace("_", "-")
            assert f"=={found[name]}" == str(pin.specifier), f"{name}: run `make lock`"


def test_the_gpu_extras_are_the_versions_that_versions_toml_pins():
    pins = bootstrap.requirements(["tensorrt-llm", "vllm"])
    assert f"tensorrt-llm=={pinned('tensorrt_llm')}" in pins and f"vllm=={pinned('vllm')}" in pins


def test_the_table_of_extras_has_every_extra():
    declared = read_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    section = (ROOT / "docs/building.md").read_text().partition("## Extras and lock files")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == set(declared)
