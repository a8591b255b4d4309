"""A GGUF file gives back the Hugging Face checkpoint that it was written from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Kind

from build_engine.checkpoint import bf16_to_float32
from build_engine.gguf.source import GgufSource
from contract.errors import BuildError
from tests.build_engine.gguf import files
from tests.oracle import tiny

CONFIG: dict[str, Any] = tiny.COMMON | tiny.CONFIGS["llama"] | {"hidden_size": 128}


def source(tmp_path: Path, name: str = "llama", kind: Kind = Kind.F32, **options: Any) -> GgufSource:
    config = tiny.COMMON | tiny.CONFIGS[name]
    return GgufSource(files.write(tmp_path / "m.gguf", config, tiny.tensors(config), kind, **options))


@pytest.mark.parametrize("name", ["qwen2", "llama", "qwen3", "qwen3-biases"])
def test_tensors_and_config_come_back(name: str, tmp_path: Path) -> None:
    config = tiny.COMMON | tiny.CONFIGS[name]
    wanted = tiny.tensors(config)
    read = source(tmp_path, name)
    tensors = read.tensors(read.config)
    assert set(tensors.names) == set(wanted) and tensors.dtype("model.norm.weight") == "F32"
    for each, tensor in wanted.items():
        np.testing.assert_array_equal(tensors.float32(each), tensor)
        np.testing.assert_array_equal(tensors.raw(each), tensor)
    assert {key: read.config.get(key, False) for key in config} | {"bos_token_id": 0, "eos_token_id": 1} == config


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
def test_every_type_reads_as_the_library_dequantizes_it(kind: Kind, tmp_path: Path) -> None:
    wanted = tiny.tensors(CONFIG)
    read = GgufSource(files.write(tmp_path / "m.gguf", CONFIG, wanted, kind))
    tensors = read.tensors(read.config)
    for name in ("model.layers.1.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"):
        exact = gguf.dequantize(gguf.quantize(wanted[name], kind), kind)
        np.testing.assert_array_equal(tensors.float32(name), exact)
        np.testing.assert_array_equal(tensors.float32(name, 5, 40), exact[5:40])
        raw = tensors.raw(name)
        np.testing.assert_array_equal(bf16_to_float32(raw) if kind == Kind.BF16 else raw.astype(np.float32), exact)
        tensors.forget(name)
    assert tensors.shape("model.embed_tokens.weight") == (tiny.VOCAB, 128)
    assert read.is_low_bit == (kind in (Kind.Q4_0, Kind.Q4_1))
    assert tensors.lossless_bytes == tensors.parameters * (2 if kind in (Kind.F16, Kind.BF16) else 4) + (
        0 if kind not in (Kind.F16, Kind.BF16) else 2 * sum(t.size for t in wanted.values() if t.ndim == 1)
    )


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.Q3_K, Kind.IQ4_XS])
def test_blocks_of_256(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library cannot write these: any bytes are a valid block."""
    config = CONFIG | {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 256}
    rng = np.random.default_rng(3)
    stored: dict[tuple[int, ...], npt.NDArray[np.uint8]] = {}

    def quantize(data: npt.NDArray[np.float32], wanted: Kind) -> npt.NDArray[Any]:
        if wanted == Kind.F32:
            return data
        shape = gguf.quant_shape_to_byte_shape(data.shape, wanted)
        return stored.setdefault(data.shape, rng.integers(0, 120, shape, np.uint8))  # no infinite scale among these

    monkeypatch.setattr(gguf.quants, "quantize", quantize)
    read = GgufSource(files.write(tmp_path / "m.gguf", config, tiny.tensors(config), kind))
    monkeypatch.undo()
    tensors = read.tensors(read.config)
    exact = gguf.dequantize(stored[256, 256], kind)
    np.testing.assert_array_equal(tensors.float32("model.layers.0.mlp.up_proj.weight"), exact)
    keys = gguf.dequantize(stored[128, 256], kind)
    rows = files.permuted("k_proj.", np.arange(128, dtype=np.float32)[:, None], config)[:, 0].astype(int)
    np.testing.assert_array_equal(tensors.float32("model.layers.0.self_attn.k_proj.weight")[rows], keys)


def test_sharded_files_are_read_from_any_part(tmp_path: Path) -> None:
    config = tiny.COMMON | tiny.CONFIGS["llama"]
    wanted = tiny.tensors(config)
    files.write(tmp_path / "m.gguf", config, wanted, split_max_tensors=8)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) == 3 and parts[0].name == "m-00001-of-00003.gguf"
    for part in (parts[0], parts[2]):
        read = GgufSource(part)
        assert read.files == parts and set(read.tensors(read.config).names) == set(wanted)
    parts[1].rename(tmp_path / "elsewhere.gguf")
    with pytest.raises(BuildError, match=r"lacks 1 of 3 parts \(m-00002-of-00003\.gguf\)"):
        GgufSource(parts[0])
    parts[0].rename(tmp_path / "first.gguf")
    with pytest.raises(BuildError, match="one of 3 parts and the others are not named like it"):
        GgufSource(tmp_path / "first.gguf")


def test_llama3_scaling_is_recognized(tmp_path: Path) -> None:
    from build_engine.rope import frequencies

    config = tiny.COMMON | tiny.CONFIGS["llama"] | {"rope_theta": 500000.0, "head_dim": 24}
    scaling = tiny.LLAMA3 | {"original_max_position_embeddings": 8192, "factor": 32.0}
    plain, _ = frequencies(config, 24)
    scaled, _ = frequencies(config | {"rope_scaling": scaling}, 24)
    tensors = tiny.tensors(config)

    def write(divisors: npt.NDArray[np.float32]) -> GgufSource:
        return GgufSource(files.write(tmp_path / "m.gguf", config, tensors, divisors=divisors))

    assert write(plain / scaled).config["rope_scaling"] == scaling
    with pytest.raises(BuildError, match="is not Llama 3's scaling"):
        write((plain / scaled) ** 2)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.expert_count": 8}, "mixture of 8 experts"),
        ({"llama.attention.sliding_window": 4096}, "slides over 4096 tokens"),
        ({"llama.rope.dimension_count": 12}, "12 of 24 dimensions rotate"),
        ({"llama.rope.scaling.type": "longrope"}, "rope scaling 'longrope' is not supported"),
        ({"llama.block_count": [2, 3]}, "differs from layer to layer"),
        ({"llama.context_length": None}, r"lacks the metadata llama\.context_length"),
        ({"llama.attention.head_count": 0}, "num_attention_heads is 0, not a whole number above 0"),
        ({"llama.attention.head_count": 5}, "5 num_attention_heads are not a multiple of 4"),
        ({"llama.context_length": "long"}, r"llama\.context_length is 'long', not a whole number"),
        ({"llama.attention.layer_norm_rms_epsilon": "x"}, "layer_norm_rms_epsilon is 'x', not a number"),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 2.0,
                "llama.rope.scaling.attn_factor": 0.5,
            },
            r"attn_factor 0\.5 is not supported",
        ),
        ({"general.alignment": 0}, "truncated or damaged"),
        ({"general.architecture": "gemma3"}, "architecture 'gemma3'; only qwen2, llama, qwen3 can be built"),
    ],
)
def test_what_cannot_be_computed_is_refused(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=message) as error:
        source(tmp_path, metadata=metadata)
    assert "\n" not in str(error.value) and str(tmp_path / "m.gguf") in str(error.value)


@pytest.mark.parametrize(
    ("metadata", "scaling"),
    [
        ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),  # llama.cpp's default type
        ({"type": "linear", "factor": 1.0}, None),
        ({"type": "none", "factor": 4.0}, None),
        (
            {"type": "yarn", "factor": 4.0, "yarn_beta_fast": 16.0},
            {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0},
        ),
    ],
)
def test_scaling(tmp_path: Path, metadata: dict[str, Any], scaling: dict[str, Any] | None) -> None:
    named = {f"llama.rope.scaling.{key}": value for key, value in metadata.items()}
    assert source(tmp_path, metadata=named).config.get("rope_scaling") == scaling


def test_linear_scaling_of_older_files(tmp_path: Path) -> None:
    assert source(tmp_path, metadata={"llama.rope.scale_linear": 2.0}).config["rope_scaling"]["factor"] == 2.0


def test_types_and_names_that_cannot_be_read(tmp_path: Path) -> None:
    config = CONFIG | {"hidden_size": 256, "intermediate_size": 256}
    wanted = tiny.tensors(config)
    with pytest.raises(BuildError, match=r"m\.gguf: token_embd\.weight is TQ1_0; these can be read: BF16, F16, F32"):
        GgufSource(files.write(tmp_path / "m.gguf", config, wanted, Kind.TQ1_0))
    strange = {"model.layers.0.self_attn.sinks.weight": np.ones(4, np.float32)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(files.BLOCK, "attn_sinks", "self_attn.sinks")
        files.write(tmp_path / "m.gguf", config, wanted | strange)
    with pytest.raises(BuildError, match=r"holds a tensor blk\.0\.attn_sinks\.weight"):
        GgufSource(tmp_path / "m.gguf")


def test_damaged_files(tmp_path: Path) -> None:
    source(tmp_path)
    path, whole = tmp_path / "m.gguf", (tmp_path / "m.gguf").read_bytes()
    for cut in (0, 10, 30, 200, 1500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(BuildError, match="truncated or damaged"):
            GgufSource(path)
    path.write_bytes(b"PK\x03\x04" + whole[4:])
    with pytest.raises(BuildError, match=r"not a GGUF file \(it begins with b'PK"):
        GgufSource(path)
    path.write_bytes(whole[:4] + (1).to_bytes(4, "little") + whole[8:])
    with pytest.raises(BuildError, match="GGUF version 1"):
        GgufSource(path)
    path.write_bytes(whole[:4] + (3).to_bytes(4, "big") + whole[8:])
    with pytest.raises(BuildError, match="is big-endian"):
        GgufSource(path)
    rng = np.random.default_rng(5)
    for _ in range(200):  # whatever the bytes are: one line, or a file that still makes sense
        noise = bytearray(whole)
        for at in rng.integers(8, 12_000, 20):
            noise[at] = rng.integers(0, 256)
        path.write_bytes(noise)
        try:
            GgufSource(path)
        except BuildError as error:
            assert "\n" not in str(error)
