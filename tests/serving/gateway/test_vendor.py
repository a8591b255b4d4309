"""The page's vendored libraries are exactly what npm published under the pinned versions."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from contract.paths import ROOT

JS = Path(__file__).parent / "js"
VENDOR = ROOT / "serving" / "gateway" / "static" / "vendor"
MANIFEST = json.loads((VENDOR / "vendor.json").read_text())
LOCK = json.loads((JS / "package-lock.json").read_text())["packages"]


def test_every_vendored_file_is_in_the_manifest_with_its_hash_and_licence() -> None:
    files = {path.name for path in VENDOR.iterdir()} - {"vendor.json"}
    assert files == {name for entry in MANIFEST for name in (entry["file"], f"{entry['file']}.LICENSE")}
    for entry in MANIFEST:
        assert hashlib.sha256((VENDOR / entry["file"]).read_bytes()).hexdigest() == entry["sha256"], entry["file"]


def test_the_manifest_names_what_the_lock_pins() -> None:
    for entry in MANIFEST:
        locked = LOCK[f"node_modules/{entry['package']}"]
        assert (entry["version"], entry["integrity"]) == (locked["version"], locked["integrity"])


@pytest.mark.browser
def test_make_vendor_reproduces_the_files(tmp_path: Path) -> None:
    subprocess.run(["node", str(JS / "vendor.mjs"), str(tmp_path)], check=True)
    names = sorted(path.name for path in VENDOR.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (VENDOR / name).read_bytes(), name
