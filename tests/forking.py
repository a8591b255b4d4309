"""Programs of this repository as processes that need not import everything again: forks of one that has.

python -m tests.forking MODULE …    imports them, then runs one for each line of standard input, a JSON list
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

from contract.paths import ROOT

Run = Callable[[Sequence[str]], tuple[int, str]]


@contextlib.contextmanager
def forking(*modules: str) -> Iterator[Run]:
    """``run(["-m", module, …])``: exit code and output."""
    command = [sys.executable, "-m", "tests.forking", *modules]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    asked, answers = process.stdin, process.stdout

    def run(arguments: Sequence[str]) -> tuple[int, str]:
        print(json.dumps(arguments), file=asked, flush=True)
        code, output = json.loads(answers.readline())
        return code, output

    yield run
    asked.close()
    answers.close()
    process.wait(60)


def _run(arguments: list[str]) -> tuple[int, str]:
    """Returns in the parent only; the child ends as the program does."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        for number, end in enumerate((os.open(os.devnull, os.O_RDONLY), writing, writing)):
            os.dup2(end, number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
        sys.argv = arguments[1:]
        sys.modules.pop(f"{arguments[1]}.__main__", None)  # or it would be warned of
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        sys.exit()
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as output:
        said = output.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)
