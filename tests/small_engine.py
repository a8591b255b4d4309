"""An engine directory without weights, with one token per byte: a server on it starts in half the time."""

from __future__ import annotations

import json
from pathlib import Path

from build_engine.staging import file_infos
from contract import engine_dir
from contract.engine_dir import EngineInfo, EngineLimits, ModelInfo, RuntimeInfo
from tests.byte_tokenizer import byte_tokenizer

CONTEXT = 32768
END = 256


def write(directory: Path) -> Path:
    directory.mkdir()
    byte_tokenizer(special=["<end>"]).save(str(directory / "tokenizer.json"))
    model = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "max_position_embeddings": CONTEXT}
    for name, content in {
        "tokenizer_config": {"eos_token": "<end>", "chat_template": "{{ messages[-1].content }}"},
        "generation_config": {"eos_token_id": END, "do_sample": True},
        "config": model | {"vocab_size": END + 1},
    }.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    info = EngineInfo(
        ModelInfo("qwen-small", "small", synthetic=True, vocab_size=END + 1), RuntimeInfo("simulated"), "fp32", "fp32",
        EngineLimits(max_seq_len=CONTEXT, max_input_len=CONTEXT - 1), files=file_infos(directory),
    )  # fmt: skip
    engine_dir.write(info, directory)
    return directory
