"""``make sbom``: what a server of this Python is made of, as CycloneDX JSON -> sbom/server-PYTHON.cdx.json.

Packages, versions and hashes are those of the lock; licences those of docs/licences.md; the page's libraries those of
vendor.json. Runs in .venv-sbom, whose own packages are not part of it. The result is validated against the schema.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs/licences.md"
VENDORED = ROOT / "serving/gateway/static/vendor/vendor.json"
SCHEMA = "1.6"


def licences() -> dict[str, str]:
    rows = (
        line.strip("| ").split(" | ") for line in TABLE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "
    )
    return {cells[0]: cells[1] for cells in rows}


def packages(python: str) -> dict[str, Any]:
    """The tool's answer for the lock: one component per package."""
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", str(ROOT / "locks" / f"server-{python}.txt")]
    command += ["--pyproject", str(ROOT / "pyproject.toml"), "--sv", SCHEMA, "--output-reproducible"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def vendored() -> list[dict[str, Any]]:
    return [
        {
            "type": "library", "bom-ref": f"vendor/{entry['file']}", "name": entry["package"],
            "version": entry["version"], "purl": f"pkg:npm/{entry['package'].replace('@', '%40')}@{entry['version']}",
            "hashes": [{"alg": "SHA-256", "content": entry["sha256"]}],
            "licenses": [{"license": {"name": entry["license"]}}],
        }
        for entry in json.loads(VENDORED.read_text(encoding="utf-8"))
    ]  # fmt: skip


def main() -> int:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    bom, known = packages(python), licences()
    for component in bom["components"]:
        name = re.sub(r"[-_.]+", "-", component["name"]).lower()
        if name not in known:
            sys.exit(f"sbom: docs/licences.md has no {name}: run `make licences`")
        component["licenses"] = [{"license": {"name": known[name]}}]
    bom["components"] += vendored()
    text = json.dumps(bom, indent=1, ensure_ascii=False) + "\n"
    if error := JsonStrictValidator(SchemaVersion.from_version(SCHEMA)).validate_str(text):
        sys.exit(f"sbom: not valid CycloneDX {SCHEMA}: {error}")
    path = ROOT / "sbom" / f"server-{python}.cdx.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {len(bom['components'])} components, CycloneDX {SCHEMA}, valid")
    return 0


if __name__ == "__main__":
    sys.exit(main())
