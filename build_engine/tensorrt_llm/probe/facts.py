"""Compare the installed API surface with the one recorded in ``tests/data``: rows for the probe, a diff and files.

``make facts`` runs this inside NVIDIA's container and needs no GPU. To move to a new TensorRT-LLM, read the diff, adapt
the code, and copy the two files over those in ``tests/data``.
"""

from __future__ import annotations

import contract.program

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from build_engine.tensorrt_llm.probe import surface
from build_engine.tensorrt_llm.probe.findings import ProbeResult
from build_engine.tensorrt_llm.probe.surface import Section
from contract.arguments import Arguments
from contract.errors import BuildError
from contract.paths import ROOT
from contract.versions import pinned
from serving.host import container

TESTS = ROOT / "tests"
SURFACE, FLAGS = TESTS / "data/tensorrt_llm_surface.json", TESTS / "data/trtllm_flags.json"
PASSED, COMMANDS = TESTS / "golden/trtllm_llm_api.json", TESTS / "golden/trtllm_commands.txt"
# What we read or call, in addition to what the golden files show that we pass.
READ = {
    "LLM.__init__": {"model", "**kwargs"},
    "LLM.generate_async": {"inputs", "sampling_params", "streaming"},
    "SamplingParams": {"guided_decoding", "_bad_word_ids"},
    "ExtendedRuntimePerfKnobConfig": {"cuda_graph_mode", "cuda_graph_cache_size"},
    "RequestOutput": {"outputs", "finished", "cached_tokens", "abort", "__aiter__"},
    "CompletionOutput": {"token_ids", "finish_reason", "logprobs"},
    "finish_reason": {"stop", "length", "cancelled", "timeout"},
    "methods": {"LLM.get_stats", "LLM.shutdown"},
    "quantization configs": {"FP8_DEFAULT_CFG"},  # quantize.py --qformat fp8 looks it up
}
REMEDY = "use the container pinned in versions.toml, or send probe.json"


def recorded(package: str, version: str) -> dict[str, Any]:
    """The recorded sections of ``package`` at ``version``, or else at the pinned version."""
    data = json.loads(SURFACE.read_text(encoding="utf-8"))
    wanted = pinned("tensorrt_llm", "modelopt") if package == "nvidia-modelopt" else pinned("tensorrt_llm")
    found: dict[str, Any] = data.get(f"{package}=={version}") or data[f"{package}=={wanted}"]
    return found


def names(section: Any) -> set[str]:
    """The bare names in a recorded or installed section (``abort`` for ``(method) abort()``), without those recorded as
    absent and without private attributes (but with ``SamplingParams``' private fields, one of which we set)."""
    if isinstance(section, dict):
        return {re.split(r"\s", name)[0] for name in section if not str(section[name]).startswith("absent")}
    plain = {re.split(r"[(\s]", re.sub(r"^\(\w+\) ", "", name))[0] for name in section}
    return {name for name in plain if not re.match(r"_[^_]", name)}


def passed() -> dict[str, set[str]]:
    """The names that the code passes or reads, by section: the rest may come and go."""
    golden = json.loads(PASSED.read_text(encoding="utf-8"))
    found = {section: set(listed) for section, listed in READ.items()}
    for section in ("SamplingParams", "GuidedDecodingParams"):
        found.setdefault(section, set()).update(*golden[section].values())
    for title, keywords in golden["LLM"].items():
        found.setdefault("TrtLlmArgs" if title.startswith("engine") else "TorchLlmArgs", set()).update(keywords)
        for value in keywords.values():
            for section, inner in value.items() if isinstance(value, dict) else ():
                found.setdefault(section, set()).update(inner)
    return found


def compare(recorded_sections: Mapping[str, Any], found: Mapping[str, Section]) -> Iterator[ProbeResult]:
    ours = passed()
    for section, listed in found.items():
        known = names(recorded_sections.get(section, ()))
        yield _row(f"surface of {section}", known, names(listed), ours.get(section, set()) & known)


def compare_flags(tool: str, found: set[str]) -> ProbeResult:
    known = set(json.loads(FLAGS.read_text(encoding="utf-8"))[tool])
    ours = surface.flags(COMMANDS.read_text(encoding="utf-8"))
    return _row(f"flags of {tool}", known, found, ours & known)


def _row(check: str, known: set[str], found: set[str], ours: Collection[str]) -> ProbeResult:
    """A missing name that we use breaks serving; any other difference is only reported."""
    gone, new = sorted(known - found), sorted(found - known)
    broken = sorted(set(gone) & set(ours))
    if broken:
        return ProbeResult(check, "fail", f"{len(broken)} names that we use are missing: {_few(broken)}", REMEDY)
    if gone or new:
        text = ", ".join(f"{len(part)} {word} ({_few(part)})" for part, word in ((gone, "gone"), (new, "new")) if part)
        return ProbeResult(check, "differs", f"{text}, none of them used", "none: `make facts` records them")
    return ProbeResult(check, "pass", f"{len(found)} names as recorded")


def _few(found: Sequence[str]) -> str:
    return ", ".join(found[:6]) + (", …" if len(found) > 6 else "")


def examine() -> Iterator[ProbeResult]:
    """All comparisons as rows; a missing package or tool is a finding, not a traceback."""
    for package, read in (("tensorrt_llm", surface.tensorrt_llm), ("nvidia-modelopt", surface.modelopt)):
        try:
            version, found = read()
        except Exception as error:  # noqa: BLE001  # whatever a package does while it is imported, it is the finding
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            yield ProbeResult(f"surface of {package}", "fail", reason, f"use {container.image()}, which has all of it")
            continue
        yield from compare(recorded(package, version), found)
    yield from (_tool(name, command) for name, command in surface.TOOLS.items())


def _tool(name: str, command: Sequence[str]) -> ProbeResult:
    try:
        return compare_flags(name, surface.tool_flags(command))
    except BuildError as error:
        return ProbeResult(f"flags of {name}", "fail", str(error), f"use {container.image()}, which has it")


def diff(old: Any, new: Section) -> list[str]:
    """One section: ``+`` a new name, ``-`` a removed one, ``~`` another default."""
    before, after = names(old), names(new)
    lines = [f"  - {name}" for name in sorted(before - after)]
    lines += [f"  + {name}{_declared(new, name)}" for name in sorted(after - before)]
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(before & after & set(old) & set(new)):
            was, now = (_value(part[name]) for part in (old, new))
            lines += [f"  ~ {name}: {was} → {now}"] if was and now and was != now else []
    return lines


def _declared(section: Section, name: str) -> str:
    entry = section.get(name) if isinstance(section, dict) else None
    return f": {entry['type']} = {entry['default']}" if entry else ""


def _value(entry: Any) -> str:
    """A default that can be compared as text: numbers, strings, True, False and None. ``None -> 2048`` says what a
    validator makes of it."""
    text = str(entry["default"]).split(" -> ")[0] if isinstance(entry, dict) else ""
    return text if re.fullmatch(r"None|True|False|required|-?[\d.]+|'[^']*'", text) else ""


def main(argv: Sequence[str] | None = None) -> int:
    parser = Arguments(prog="python3 -m build_engine.tensorrt_llm.probe.facts", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    output = parser.parse_args(argv).output
    try:
        version, found = surface.tensorrt_llm()
        optimizer, optimizers = surface.modelopt()
    except ImportError as error:
        parser.exit(1, f"error: {container.not_installed()} ({error})\n")
    helps = {tool: sorted(surface.tool_flags(command)) for tool, command in surface.TOOLS.items()}
    sections = {("tensorrt_llm", version): found, ("nvidia-modelopt", optimizer): optimizers}
    output.mkdir(parents=True, exist_ok=True)
    _write(output / SURFACE.name, {f"{package}=={release}": listed for (package, release), listed in sections.items()})
    _write(output / FLAGS.name, {"_source": f"TensorRT-LLM {version}, read from the tools' own --help", **helps})
    for (package, release), listed in sections.items():
        _show(f"{package} {release}", {section: (recorded(package, release).get(section, ()), listed[section])
                                       for section in listed})  # fmt: skip
    flags = json.loads(FLAGS.read_text(encoding="utf-8"))
    _show("command-line tools", {tool: (flags[tool], helps[tool]) for tool in helps})
    return 0


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def _show(title: str, pairs: Mapping[str, tuple[Any, Section]]) -> None:
    print(f"\n{title}, beside tests/data:")
    for section, (old, new) in pairs.items():
        lines = diff(old, new)
        print(f"{section}: {'as recorded' if not lines else ''}".rstrip(), *lines, sep="\n" if lines else "")


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except BuildError as error:
        raise SystemExit(f"error: {error}") from None
