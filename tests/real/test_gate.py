"""The accuracy gate on real weights: good rounding passes; 4 bits of 4-bit weights and a damaged layer do not."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from build_engine.__main__ import main
from build_engine.openvino.build import MODEL_FILE
from contract import engine_dir
from tests.real.conftest import Built

pytestmark = pytest.mark.real
SIZE = ["--prompts", "16", "--long", "0"]  # `make verify` takes 40 and 4 long ones; docs/building.md has the figures


def verified(engine: Path, reference: Path) -> dict[str, Any]:
    """What the gate recorded; its exit code says the same."""
    failed = main(["verify", "--engine", str(engine), "--reference", str(reference), *SIZE])
    accuracy = engine_dir.read(engine).accuracy
    assert accuracy is not None and accuracy["passed"] is not bool(failed)
    print({name: accuracy[name] for name in accuracy["limits"]})
    return accuracy


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_good_rounding_passes(built: Built, precision: str) -> None:
    accuracy = verified(built(precision), built("fp32"))
    assert accuracy["passed"], accuracy["failed"]


def test_four_bits_of_four_bit_weights_fail(built: Built) -> None:
    assert len(verified(built("int4"), built("fp32"))["failed"]) > 1


def test_one_damaged_layer_of_thirty_fails(built: Built, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(built("int8"), damaged, copy_function=os.link)
    weights = damaged / Path(MODEL_FILE).with_suffix(".bin")
    weights.unlink()
    shutil.copyfile(built("int8") / weights.name, weights)
    wipe_down_projection(damaged / MODEL_FILE, weights, layer=15)
    assert len(verified(damaged, built("fp32"))["failed"]) > 1


def wipe_down_projection(model: Path, weights: Path, layer: int) -> None:
    """Zero the INT8 values of one layer's MLP output: 576 × 1,536 in groups of 192, in the file layer by layer."""
    found = re.findall(
        r'element_type="i8" shape="576, 8, 192" offset="(\d+)" size="(\d+)"', model.read_text(encoding="utf-8")
    )
    assert len(found) == 30
    start, size = map(int, found[layer])
    assert size == 576 * 1536
    with weights.open("r+b") as file:
        file.seek(start)
        file.write(bytes(size))
