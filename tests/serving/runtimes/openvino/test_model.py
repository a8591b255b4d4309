"""Several compiled models over one KV cache: each kind of step goes to the right one and sees what others wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest

from build_engine.openvino import build as openvino_build
from build_engine.spec import BuildSpec
from build_engine.synthetic import checkpoint as synthetic
from contract.model_shape import ModelShape
from contract.sampling import Sampling
from serving.runtimes.base import EngineRequest
from serving.runtimes.openvino import model as model_module
from serving.runtimes.openvino.blocks import BLOCK_TOKENS
from serving.runtimes.openvino.inputs import batch, prompt
from serving.runtimes.openvino.model import PagedModel
from serving.runtimes.openvino.sampling import Sampler
from serving.runtimes.openvino.scheduler import ScheduledChunk, ScheduledSequence

SHAPE = ModelShape("s", 2, 128, 2, 1, 256, 1024, head_dim=64)
BLOCKS = 8
LONG = 32  # rows


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("engine")
    synthetic.write(SHAPE, home / "m", seed=4)
    return openvino_build.build(BuildSpec(str(home / "m"), "int8", "openvino", home / "int8"))


def load(engine: Path, context: int = 0) -> PagedModel:
    model = PagedModel(engine / openvino_build.MODEL_FILE, "int8")
    model.allocate(BLOCKS, context)
    return model


def chunk(start: int, count: int, blocks: tuple[int, ...] = (5, 2)) -> ScheduledChunk:
    tokens = list(range(5, 5 + start + count))
    request = EngineRequest(0, tokens, Sampling(1))
    sequence = ScheduledSequence(request, Sampler(Sampling(1), tokens), 0, tokens, blocks=list(blocks))
    return ScheduledChunk(sequence, start, count)


def logits(model: PagedModel, start: int, count: int) -> npt.NDArray[np.float32]:
    return model.forward([chunk(start, count)])[0].copy()


def alike(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def test_a_lone_row_gives_the_same_bits_from_fixed_shapes(
    engine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fixed = load(engine)
    assert "goes without fixed shapes" not in caplog.text
    monkeypatch.setattr(model_module, "has_one_row_model", lambda *arguments: False)
    free = load(engine)
    for at in range(45):  # the first rows of a block, and past its end, over the same cache
        assert np.array_equal(logits(fixed, at, 1), logits(free, at, 1)), at
    assert np.array_equal(logits(fixed, 45, 9), logits(free, 45, 9)), "longer steps see the keys of lone rows"
    assert np.array_equal(logits(fixed, 54, 1), logits(free, 54, 1)), "and the other way round"


def test_a_plugin_that_copies_constants_is_noticed(
    engine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would write a stream's keys where the other models do not look for them."""
    shared = load(engine)
    constant = model_module.op.constant

    def copying(value: object, **more: object) -> object:
        return constant(np.array(value.data) if isinstance(value, ov.Tensor) else value)

    monkeypatch.setattr(model_module.op, "constant", copying)
    model = load(engine)
    assert "goes without fixed shapes" in caplog.text
    for at in range(3):
        assert np.array_equal(logits(model, at, 1), logits(shared, at, 1))
    assert np.array_equal(logits(model, 3, 9), logits(shared, 3, 9))


def compiled_code() -> set[str]:
    """Where this process holds executable memory that no file backs: kernels that OpenVINO compiled."""
    fields = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    return {each[0] for each in fields if "x" in each[1] and len(each) == 5}


@pytest.mark.parametrize("lone", [True, False])
def test_a_growing_context_compiles_no_kernels(engine: Path, lone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """PagedAttention would, 96 at every block's border: 5 ms in every 32nd token."""
    monkeypatch.setattr(model_module, "has_one_row_model", lambda *arguments: lone)
    for context, compiles in ((0, True), (BLOCKS * BLOCK_TOKENS, False)):
        model = load(engine, context)
        logits(model, BLOCK_TOKENS - 1, 1)
        before = compiled_code()
        logits(model, BLOCK_TOKENS, 1)
        assert (compiled_code() != before) == compiles, context


def test_two_lone_rows_are_no_lone_row(engine: Path) -> None:
    model = load(engine)
    for _ in range(2):
        together = model.forward([chunk(0, 1, (0,)), chunk(0, 1, (1,))])
        assert together.shape[0] == 2 and np.array_equal(together[0], together[1])
        assert model.forward([chunk(1, 1, (0,))]).shape[0] == 1


def test_the_timed_prompt_is_what_a_step_of_a_prompt_computes() -> None:
    timed, real = prompt(40), batch([chunk(0, 40, (0, 1))])
    assert timed.keys() == real.keys()
    for name in timed.keys() - {"input_ids"}:
        assert list(timed[name]) == list(real[name]), name


def test_long_and_short_steps_share_one_kv_cache(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no BF16")
    one = load(engine)
    monkeypatch.setattr(model_module, "has_long_model", lambda *arguments: True)
    monkeypatch.setattr(model_module, "crossover", lambda *seconds: LONG)
    two = load(engine)
    short = [logits(model, 0, LONG - 1) for model in (one, two)]
    assert np.array_equal(*short), "a short step is computed the same way with and without a second model"
    long = [logits(model, 0, LONG) for model in (one, two)]
    assert not np.array_equal(*long) and alike(*long) > 0.99, "a long step is computed in BF16"
    after = [logits(model, LONG, 1) for model in (one, two)]
    two.allocate(BLOCKS)  # an empty cache: what the step would answer if it did not see the long step's keys and values
    assert alike(*after) > 0.99 > alike(after[1], logits(two, LONG, 1)) + 0.005


def test_where_long_steps_begin_is_measured(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no BF16")
    seen: list[dict[int, float]] = []

    def never(*seconds: dict[int, float]) -> None:
        seen.extend(seconds)

    alone = logits(load(engine), 0, 64)
    monkeypatch.setattr(model_module, "has_long_model", lambda *arguments: True)
    monkeypatch.setattr(model_module, "crossover", never)
    model = load(engine)
    assert [sorted(seconds) for seconds in seen] == [[8, 16, 32, 64, 128]] * 2
    assert all(0 < value < 10 for seconds in seen for value in seconds.values())
    assert np.array_equal(logits(model, 0, 64), alone), "a second model that never pays is not used"
