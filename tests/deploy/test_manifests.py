"""deploy/: files that repeat others say the same; custom resources fit their CRDs; every pod is locked down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from contract.paths import ROOT
from deploy import generate

KUBERNETES = ROOT / "deploy/kubernetes"
CRDS = json.loads((ROOT / "tests/standins/kubernetes_crds.json").read_text())  # specs; "source" says where each is from
GENERATED = {path: make() for path, make in generate.FILES.items()}


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        for each in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            yield str(path.relative_to(KUBERNETES)), each


ALL = list(objects())
CUSTOM = [(p, o) for p, o in ALL if f"{o['apiVersion']}/{o['kind']}" in CRDS]
PODS = [(p, o) for p, o in ALL if o["kind"] in ("Deployment", "Job") and "overlays" not in p]


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_what_repeats_something_is_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == GENERATED[path], "run `make manifests`"


def test_every_custom_resource_has_its_crd_here() -> None:
    assert {o["kind"] for _, o in CUSTOM} == {name.rsplit("/", 1)[1] for name in CRDS}


@pytest.mark.parametrize(("path", "resource"), CUSTOM, ids=[o["kind"] for _, o in CUSTOM])
def test_custom_resources_fit_their_crds(path: str, resource: dict[str, Any]) -> None:
    spec = CRDS[f"{resource['apiVersion']}/{resource['kind']}"]["spec"]
    jsonschema.validate(resource["spec"], spec)
    with pytest.raises(jsonschema.ValidationError):  # the schemas know which fields there are
        jsonschema.validate({**resource["spec"], "noSuchField": 1}, spec)


@pytest.mark.parametrize(("path", "resource"), PODS, ids=[o["metadata"]["name"] for _, o in PODS])
def test_every_pod_is_locked_down(path: str, resource: dict[str, Any]) -> None:
    spec = resource["spec"]["template"]["spec"]
    assert (
        spec["securityContext"]["runAsNonRoot"]
        and spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    )
    assert spec.get("automountServiceAccountToken") is False or spec["serviceAccountName"] == "qwen-router"
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


def test_the_engine_has_time_to_drain() -> None:
    lines = (KUBERNETES / "base/settings.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    engine = next(o for _, o in PODS if o["metadata"]["name"] == "qwen-engine")
    spec = engine["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] >= int(settings["LAME_DUCK"]) + int(settings["DRAIN"]) + 15
    assert "lifecycle" not in spec["containers"][0], "a preStop sleep hides the end from routers that ask /health/ready"


def test_every_file_is_used() -> None:
    """A file that no kustomization names is applied by nobody."""
    for path in KUBERNETES.rglob("kustomization.yaml"):
        named = path.read_text(encoding="utf-8")
        others = [p.name for p in path.parent.iterdir() if p.is_file() and p.name != "kustomization.yaml"]
        assert [name for name in others if name not in named] == [], path
