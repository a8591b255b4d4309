"""Write ``vllm_surface_VERSION.json``: what serving/runtimes/vllm/core.py rests on in vLLM's source, unimported.

pip download --no-deps vllm==0.26.0 && unzip vllm-*.whl 'vllm/*.py' && python make_vllm_surface.py . 0.26.0
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

NAMES = {
    "vllm._custom_ops": ["reshape_and_cache_flash"],
    "vllm.config.structured_outputs": ["StructuredOutputsConfig"],
    "vllm.distributed.device_communicators.shm_broadcast": ["SpinCondition"],
    "vllm.engine.arg_utils": ["AsyncEngineArgs", "EngineArgs"],
    "vllm.exceptions": ["VLLMValidationError"],
    "vllm.inputs.engine": ["tokens_input"],
    "vllm.lora.request": ["LoRARequest"],
    "vllm.renderers": ["renderer_from_config"],
    "vllm.sampling_params": ["SamplingParams", "StructuredOutputsParams"],
    "vllm.model_executor.kernels.linear.scaled_mm.cutlass": ["CutlassFP8ScaledMMLinearKernel"],
    "vllm.usage.usage_lib": ["UsageContext"],
    "vllm.v1.attention.backends.flash_attn": [
        "FlashAttentionBackend",
        "FlashAttentionImpl",
        "FlashAttentionMetadata",
        "FlashAttentionMetadataBuilder",
    ],
    "vllm.v1.core.kv_cache_manager": ["KVCacheManager"],
    "vllm.v1.core.sched.async_scheduler": ["AsyncScheduler"],
    "vllm.v1.core.sched.output": ["CachedRequestData"],
    "vllm.v1.core.sched.scheduler": ["Scheduler"],
    "vllm.v1.core.single_type_kv_cache_manager": ["SingleTypeKVCacheManager", "FullAttentionManager"],
    "vllm.v1.engine": ["EngineCoreOutput", "EngineCoreOutputs", "EngineCoreRequest", "FinishReason"],
    "vllm.v1.engine.core_client": ["EngineCoreClient", "SyncMPClient", "MPClient", "BackgroundResources"],
    "vllm.v1.engine.input_processor": ["InputProcessor"],
    "vllm.v1.engine.utils": ["CoreEngineProcManager", "get_mp_context"],
    "vllm.v1.executor": ["Executor"],
    "vllm.v1.metrics.stats": ["PrefillStats", "SchedulerStats"],
    "vllm.v1.outputs": ["LogprobsLists"],
    "vllm.v1.request": ["Request"],
    "vllm.v1.worker.gpu.sample.bad_words": ["BadWordsState"],
    "vllm.v1.worker.gpu.sample.logit_bias": ["LogitBiasState"],
    "vllm.v1.worker.gpu.sample.penalties": ["PenaltiesState"],
    "vllm.v1.worker.gpu.sample.sampler": ["Sampler"],
    "vllm.v1.worker.gpu.sample.states": ["SamplingStates"],
    "vllm.v1.worker.gpu_worker": ["Worker"],
}


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    return [a.arg for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]


def describe(node: ast.AST) -> dict[str, object]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return {"parameters": parameters(node)}
    assert isinstance(node, ast.ClassDef)
    fields = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    members = {
        t.id: n.value.value
        for n in node.body
        if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)
        for t in n.targets
        if isinstance(t, ast.Name)
    }
    functions = [n for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    attributes = {
        a.attr
        for a in ast.walk(node)
        if isinstance(a, ast.Attribute) and isinstance(a.ctx, ast.Store) and getattr(a.value, "id", "") == "self"
    }
    return {
        "bases": [ast.unparse(base) for base in node.bases],
        "fields": fields,
        "members": members,
        "methods": {f.name: parameters(f) for f in functions},
        "attributes": sorted(attributes),
    }


def find(root: Path, module: str, name: str) -> dict[str, object]:
    path = root / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return describe(node)
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            package = module.split(".") if path.is_dir() else module.split(".")[:-1]
            up = package[: len(package) - node.level + 1] if node.level else []
            return find(root, ".".join([*up, *(node.module or "").split(".")]).strip("."), name)
    raise SystemExit(f"{module} has no {name}")


def main() -> None:
    root, version = Path(sys.argv[1]), sys.argv[2]
    surface = {f"{module}.{name}": find(root, module, name) for module, names in NAMES.items() for name in names}
    target = Path(__file__).with_name(f"vllm_surface_{version}.json")
    target.write_text(json.dumps({"vllm": version, "names": surface}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
