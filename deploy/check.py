"""``make check-manifests``: what ``kubectl apply`` and ``docker build`` would be given, held against their schemas.

Renders every overlay, and every component on top of one, with ``kubectl kustomize``; checks core objects strictly with
kubernetes-validate, custom resources against their CRDs (tests/deploy), Dockerfiles with hadolint and the compose files
with ``docker-compose config``. Tools that the machine lacks are named and skipped; with ``--all`` that is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from contract.paths import ROOT

KUBERNETES = ROOT / "deploy/kubernetes"
TOOLS = ROOT / ".venv-manifests/bin"
COMPOSE = (["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"])
ON = "vllm"  # the overlay that components are tried on
BUILT_IN = ("autoscaling", "monitoring")  # components that it has already


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout


def renders() -> bool:
    """Whether a kubectl is here whose Kustomize knows ``labels`` and ``components`` (4.1; Debian 12 has 2.0)."""
    if not shutil.which("kubectl"):
        return False
    said = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"Kustomize Version: v(\d+)\.(\d+)", said)
    return found is not None and (int(found[1]), int(found[2])) >= (4, 1)


def rendered() -> dict[str, str]:
    """Name -> all objects as one YAML stream."""
    found = {path.name: run("kubectl", "kustomize", path) for path in sorted((KUBERNETES / "overlays").iterdir())}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for component in sorted((KUBERNETES / "components").iterdir()):
            if component.name in BUILT_IN:
                continue
            paths = [os.path.relpath(p, folder) for p in (KUBERNETES / "overlays" / ON, component)]
            text = f"resources: [{paths[0]}]\ncomponents: [{paths[1]}]\n"
            (folder / "kustomization.yaml").write_text(text, encoding="utf-8")
            found[f"{ON}+{component.name}"] = run("kubectl", "kustomize", folder)
    return found


def main() -> None:
    missing = [] if renders() else ["kubectl with Kustomize 4.1 or newer"]
    missing += [] if shutil.which("docker-compose") else ["docker-compose"]
    if missing:
        line = f"not installed, their checks are left out: {', '.join(missing)}"
        sys.exit(line) if "--all" in sys.argv else print(line)
    if renders():
        for name, text in rendered().items():
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(text)
                file.flush()
                run(TOOLS / "kubernetes-validate", "--strict", "--quiet", "--no-warn", file.name)
            print(f"{name}: {text.count('kind: ')} objects and references, valid")
    for path in sorted((ROOT / "deploy/docker").iterdir()):
        run(TOOLS / "hadolint", path)
        print(f"{path.name}: hadolint finds nothing")
    if "docker-compose" not in missing:
        for files in COMPOSE:
            run("docker-compose", *(part for file in files for part in ("-f", f"deploy/{file}")), "config")
            print(f"{' + '.join(files)}: valid")


if __name__ == "__main__":
    main()
