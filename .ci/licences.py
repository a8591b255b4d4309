"""``make licences``: what set-up installs and the page carries, with licences -> docs/licences.md.

``--check`` compares the table with the locks and with the installed packages' own metadata, and needs no network.
Packages that only another Python needs are fetched into a temporary directory to read theirs.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from importlib.metadata import PackageMetadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs/licences.md"
EXTRAS = ("server", "loadtest", "dev", "otel")
VENDORED = ROOT / "serving/gateway/static/vendor/vendor.json"
HEAD = """# Licences

Written by `make licences`; CI compares it with the lock files and with the packages' own metadata. The project itself
is Apache-2.0 ([LICENSE](../LICENSE), [NOTICE](../NOTICE)). Nothing here is shipped in a wheel of ours: set-up
fetches it. `make sbom` writes the same as CycloneDX, with versions and hashes.

| package | licence | in |
|---|---|---|
"""
UNKNOWN = "not stated"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, tuple[str, set[str]]]:
    """Package -> (a locked version, the extras that bring it), over all Pythons."""
    found: dict[str, tuple[str, set[str]]] = {}
    for extra in EXTRAS:
        for path in sorted((ROOT / "locks").glob(f"{extra}-*.txt")):
            for name, version in re.findall(r"^([\w.-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE):
                found.setdefault(normal(name), (version, set()))[1].add(extra)
    return found


def licence(metadata: PackageMetadata) -> str:
    """SPDX expression, else the classifiers, else the first line of the free text."""
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License ::")]
    names = [line.rpartition(" :: ")[2] for line in classifiers if not line.endswith("OSI Approved")]
    if names:
        return " AND ".join(sorted(set(names)))
    text = (str(metadata.get("License") or "").strip().splitlines() or [UNKNOWN])[0]
    return text[:80] or UNKNOWN


def installed(folder: Path | None = None) -> dict[str, str]:
    where = {"path": [str(folder)]} if folder else {}
    return {normal(d.metadata["Name"]): licence(d.metadata) for d in importlib.metadata.distributions(**where)}


def fetched(pins: list[str]) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-requires-python"]
        for pin in pins:
            subprocess.run([*command, "--target", folder, pin], check=True)
        return installed(Path(folder))


def vendored() -> list[str]:
    libraries = {entry["package"]: entry["license"] for entry in json.loads(VENDORED.read_text(encoding="utf-8"))}
    return [f"| {name} (npm) | {text} | chat page |" for name, text in sorted(libraries.items())]


def row(name: str, text: str, extras: set[str]) -> str:
    return f"| {name} | {text.replace('|', '/')} | {', '.join(e for e in EXTRAS if e in extras)} |"


def faults(lines: list[str]) -> list[str]:
    """What the table lacks or says otherwise than the locks and the installed packages do."""
    table = {line.split(" | ")[0][2:]: line for line in lines if line.startswith("| ")}
    here, packages = installed(), locked()
    found = [f"{name} is not in the table" for name in sorted(set(packages) - set(table))]
    npm = {line.split(" | ")[0][2:]: line for line in vendored()}
    extra = set(table) - set(packages) - set(npm) - {"package"}
    found += [f"{name} is in no lock" for name in sorted(extra)]
    found += [f"{name} differs from vendor.json" for name, line in npm.items() if table.get(name) != line]
    for name in sorted(set(packages) & set(table) & set(here)):
        if table[name] != row(name, here[name], packages[name][1]):
            found.append(f"{name} is now {here[name]}, in {', '.join(sorted(packages[name][1]))}")
    return [*found, *(f"{name} states no licence" for name, line in table.items() if f"| {UNKNOWN} |" in line)]


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        found = faults(TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else [])
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            print(f"docs/licences.md is stale ({'; '.join(found[:3])}{more}): run `make licences` and commit it")
        return int(bool(found))
    packages, here = locked(), installed()
    here |= fetched([f"{name}=={packages[name][0]}" for name in sorted(set(packages) - set(here))])
    rows = [row(name, here[name], extras) for name, (_, extras) in sorted(packages.items())]
    TABLE.write_text(HEAD + "\n".join([*rows, *vendored()]) + "\n", encoding="utf-8")
    print(f"{TABLE.relative_to(ROOT)}: {len(rows)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
