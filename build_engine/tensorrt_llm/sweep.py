"""``ALPHA=sweep``: try SmoothQuant at several strengths, measure each with the accuracy gate, keep the best.

No published figure says which strength suits Qwen2.5-7B. Two engines are on disk at a time, the best so far and the one
being tried. Results are kept in ``NAME-alpha-sweep.json``, so that an interrupted sweep can continue.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from build_engine.spec import BuildSpec
from build_engine.staging import replace, require_replaceable
from build_engine.tensorrt_llm.recipe import Recipe
from contract import engine_dir
from contract.errors import BuildError

ALPHAS = (0.4, 0.5, 0.6, 0.7, 0.8)
COLUMNS = (("greedy_agreement", "agreement"), ("confident_agreement", "confident"), ("mean_kl", "KL"),
           ("perplexity_drift", "perplexity"), ("repetition_rise", "loops"))  # fmt: skip
OWN = ("quantize to int8_sq", "build the engine")  # steps not shared with other strengths
Accuracy = Mapping[str, Any]
log = logging.getLogger(__name__)


def recipes(spec: BuildSpec, recipe_of: Callable[[BuildSpec], Recipe]) -> list[Recipe]:
    """One per strength, each with a directory of its own beside ``spec.out``."""
    outs = {alpha: spec.out.with_name(f"{spec.out.name}-alpha-{alpha:g}") for alpha in ALPHAS}
    return [recipe_of(dataclasses.replace(spec, alpha=alpha, out=out)) for alpha, out in outs.items()]


def run(tried: Sequence[Recipe], out: Path, build: Callable[[Recipe], None]) -> None:
    """Build and measure what is not measured yet, put the best at ``out``. Raises ``BuildError`` when none passes."""
    require_replaceable(out)
    notes = out.with_name(f"{out.name}-alpha-sweep.json")
    known: dict[str, Accuracy] = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {}
    for recipe in tried:
        if recipe.artefact.name not in known:
            known[recipe.artefact.name] = measured(recipe, build)
            notes.parent.mkdir(parents=True, exist_ok=True)
            notes.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        best = max(
            (each for each in tried if each.artefact.name in known), key=lambda one: merit(known[one.artefact.name])
        )
        for each in tried:
            if each is not best and each.artefact.name in known:
                remove(each)
    print("\n".join(table({recipe.alpha: known[recipe.artefact.name] for recipe in tried})))
    if not known[best.artefact.name]["passed"]:
        raise BuildError(
            f"no alpha passes the accuracy gate, {best.alpha:g} comes nearest and is kept in {best.spec.out}: your own "
            f"prompts may help (CALIBRATION=), else PRECISION=int8_wo"
        )
    if not (best.spec.out / "engine.json").is_file():  # removed by hand in the meantime
        measured(best, build)
    replace(best.spec.out, out)
    log.info("alpha %g is the best: %s", best.alpha, out)


def measured(recipe: Recipe, build: Callable[[Recipe], None]) -> Accuracy:
    """The gate's result. Failing the gate is a result too; any other failure ends the sweep."""
    log.info("alpha %g", recipe.alpha)
    shutil.rmtree(recipe.spec.out, ignore_errors=True)
    try:
        build(recipe)
    except BuildError:
        if not accuracy_of(recipe.spec.out):
            raise
    found = accuracy_of(recipe.spec.out)
    if not found:
        raise BuildError(f"{recipe.spec.out} has no result of the accuracy gate: its output is above")
    return found


def accuracy_of(directory: Path) -> Accuracy:
    written = (directory / "engine.json").is_file()
    return (engine_dir.read(directory).accuracy or {}) if written else {}


def merit(accuracy: Accuracy) -> tuple[bool, float, float]:
    """Larger is better: passing first, then the smaller divergence, then agreement."""
    divergence = accuracy["mean_kl"]
    return accuracy["passed"], -(math.inf if divergence is None else divergence), accuracy["greedy_agreement"]


def remove(recipe: Recipe) -> None:
    """Everything that only this strength's engine needs."""
    for directory in (recipe.spec.out, *(step.output for step in recipe.steps if step.name in OWN)):
        shutil.rmtree(directory, ignore_errors=True)


def table(results: Mapping[float, Accuracy]) -> list[str]:
    lines = [f"{'alpha':>6}" + "".join(f"{title:>12}" for _, title in COLUMNS)]
    for alpha, accuracy in results.items():
        values = ["-" if accuracy[name] is None else f"{accuracy[name]:.4g}" for name, _ in COLUMNS]
        verdict = "passes" if accuracy["passed"] else "fails"
        lines.append(f"{alpha:>6g}" + "".join(f"{value:>12}" for value in values) + f"   {verdict}")
    return lines
