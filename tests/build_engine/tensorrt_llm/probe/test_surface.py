"""What an installed TensorRT-LLM declares, read from the stand-in, from a real class and from tools."""

from __future__ import annotations

import sys
from typing import Literal

import pytest

from build_engine.tensorrt_llm.probe import facts, surface
from contract.errors import BuildError


def test_every_recorded_section_is_read(standin):
    version, found = surface.tensorrt_llm()
    recorded = facts.recorded("tensorrt_llm", version)
    assert set(recorded) - set(found) == {"stats keys"}, (
        "records exist only while an engine runs: `make probe` reads them"
    )
    for section, listed in found.items():
        assert facts.names(recorded[section]) == facts.names(listed), section


def test_attributes_are_found_wherever_a_class_makes_them():
    class Base:
        def __init__(self):
            self.first, (self.second, self._hidden) = 1, (2, 3)

        @property
        def third(self):
            return 3

    class Derived(Base):
        def late(self):
            self.fourth: int = 4

        def __aiter__(self):
            return self

    assert surface._attributes(Derived) == {"first", "second", "third", "late", "fourth", "__aiter__"}


def test_the_values_of_a_literal_are_found_inside_an_optional():
    assert surface._literals(Literal["stop", "length"] | None) == {"stop", "length"}


def test_flags_of_a_help_text():
    text = "usage: x [-h] [--max_batch_size N]\n  --gemm_plugin {auto,fp8}  see --gemm-plugin-docs, not a--b\n"
    assert surface.flags(text) == {"--max_batch_size", "--gemm_plugin", "--gemm-plugin-docs"}


@pytest.mark.parametrize(
    ("code", "message"),
    [("import no_such_module", "exit code 1: ModuleNotFoundError"), ("raise SystemExit(3)", "exit code 3: no output")],
)
def test_a_tool_whose_help_fails_has_no_flags(code, message):
    with pytest.raises(BuildError, match=message):
        surface.tool_flags([sys.executable, "-c", code])


def test_a_tool_that_is_not_there_is_one_line():
    with pytest.raises(BuildError, match="cannot be started"):
        surface.tool_flags(["/no/such/trtllm-build"])
    assert surface.tool_flags([sys.executable, "-c", "print('--one --help')"]) == {"--one"}
