"""``engine.json``: the schema and the reader agree; whatever is wrong is one line with a remedy."""

from __future__ import annotations

import json

import jsonschema
import pytest

from contract import engine_dir
from contract.engine_dir import EngineInfo, EngineLimits, FileInfo, GpuInfo, ModelInfo, RuntimeInfo
from contract.errors import EngineDirectoryError
from contract.paths import ROOT

SCHEMA = json.loads((ROOT / "contract" / "engine.schema.json").read_text())
ENGINE = EngineInfo(
    ModelInfo("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct", "abc", vocab_size=152064),
    RuntimeInfo("tensorrt_llm", "1.2.1", "engine"),
    "fp8",
    "bf16",
    EngineLimits(131072, 131071, 32, 8192),
    GpuInfo("NVIDIA H200", 90, 1),
    {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    {"engine/rank0.engine": FileInfo("0" * 64, 8_700_000_000)},
    {"passed": True, "mean_kl": 0.004},
)


def test_the_schema_is_itself_valid_and_accepts_what_is_written(tmp_path):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    engine_dir.write(ENGINE, tmp_path)
    jsonschema.validate(json.loads((tmp_path / "engine.json").read_text()), SCHEMA)
    assert engine_dir.read(tmp_path) == ENGINE
    assert [path.name for path in tmp_path.iterdir()] == ["engine.json"]


def test_every_field_of_the_dataclasses_stands_in_the_schema():
    data = json.loads(ENGINE.to_json())
    assert set(SCHEMA["properties"]) == set(data)
    for key in ("model", "runtime", "limits", "build"):
        assert set(SCHEMA["properties"][key]["properties"]) == set(data[key])
    assert set(SCHEMA["properties"]["gpu"]["oneOf"][1]["properties"]) == set(data["gpu"])


def change(path: str, value: object):
    def apply(data: dict) -> None:
        *parents, last = path.split(".")
        for name in parents:
            data = data[name]
        if value is None:
            del data[last]
        else:
            data[last] = value

    return apply


DAMAGE = [
    (change("model", None), "'model' is missing"),
    (change("model.name", None), "name"),
    (change("model.name", 7), r"model\.name must be str, got 7"),
    (change("limits.max_seq_len", "long"), r"limits\.max_seq_len must be int"),
    (change("limits.max_batch_size", True), r"limits\.max_batch_size must be int, got True"),
    (change("limits.max_batch_size", -1), "must not be negative"),
    (change("limits.max_beams", 1), r"unknown keys \['max_beams'\]"),
    (change("precision", 8), "precision must be str"),
    (change("files", []), "files must be dict"),
    (change("runtime", "vllm"), "runtime must be dict"),
    (change("build.commands", "make"), r"build\.commands must be list"),
    (change("extra", 1), "unknown keys"),
    (change("accuracy", "good"), "accuracy must be dict"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_is_named_by_the_reader_and_refused_by_the_schema(tmp_path, damage, message):
    data = json.loads(ENGINE.to_json())
    damage(data)
    (tmp_path / "engine.json").write_text(json.dumps(data))
    with pytest.raises(EngineDirectoryError, match=message) as caught:
        engine_dir.read(tmp_path)
    assert "\n" not in str(caught.value) and "make engine" in str(caught.value)
    assert "Error" not in str(caught.value), "no names of Python's"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, SCHEMA)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[1, 2]", "not an engine description"),
        ('{"build_config": {}, "version": "1.2.1"}', "not an engine description"),
        ('{"schema_version": 99}', "newer than the 1"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_foreign_truncated_and_newer_files_are_one_line(tmp_path, content, message):
    path = tmp_path / "engine.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EngineDirectoryError, match=message) as caught:
        engine_dir.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "said"), [("model", "'model' is missing"), ("model.source", "model lacks source")])
def test_what_a_description_lacks_is_named(tmp_path, key, said):
    data = json.loads(ENGINE.to_json())
    outer, _, inner = key.partition(".")
    del (data[outer] if inner else data)[inner or outer]
    (tmp_path / "engine.json").write_text(json.dumps(data))
    with pytest.raises(EngineDirectoryError) as caught:
        engine_dir.read(tmp_path)
    assert f"engine.json is damaged ({said}): rebuild it" in str(caught.value)


def test_a_missing_engine_says_how_to_make_one(tmp_path):
    with pytest.raises(EngineDirectoryError, match="make engine"):
        engine_dir.read(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("generation", "config", "ids"),
    [
        ({"eos_token_id": [151645, 151643]}, {"eos_token_id": 7}, (151645, 151643)),
        ({"eos_token_id": 2}, {}, (2,)),
        ({"eos_token_id": 0}, {"eos_token_id": 7}, (0,)),
        ({}, {"eos_token_id": 7}, (7,)),
        (None, {"eos_token_id": [7]}, (7,)),
        ({}, {}, ()),
        (None, None, ()),
    ],
)
def test_end_ids(tmp_path, generation, config, ids):
    for name, content in (("generation_config.json", generation), ("config.json", config)):
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    assert engine_dir.end_ids(tmp_path) == ids


@pytest.mark.parametrize("text", ["{", "[]", '{"eos_token_id": ["x"]}', '{"eos_token_id": {}}'])
def test_damaged_end_ids_are_one_line(tmp_path, text):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(EngineDirectoryError, match="no usable eos_token_id"):
        engine_dir.end_ids(tmp_path)
