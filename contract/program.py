"""What every program imports first: Ctrl-C ends none with a traceback, nor does a missing package.

Ctrl-C: until the program installs a SIGINT handler of its own. Imported by any other module, or by a user's program,
this does nothing. Python itself takes a tenth of a second to get here, and a Ctrl-C in it would be a traceback all the
same. Whoever starts a program of ours therefore blocks SIGINT (the Makefile, ``handover``): it waits until it is let in
here.
"""

import signal
import sys
from pathlib import Path
from types import TracebackType

_caller = sys._getframe(1)
while _caller.f_back and _caller.f_code.co_filename.startswith("<frozen importlib"):
    _caller = _caller.f_back
# While `python -m PACKAGE` imports the package itself, argv[0] is "-m".
_package = sys.orig_argv[sys.orig_argv.index("-m") + 1] if sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv else ""


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """One line for a Ctrl-C that a program leaves to Python once it has cleaned up, and for one of a checkout that was
    started without, or before, the packages set up for it."""
    if issubclass(kind, KeyboardInterrupt):
        name = sys.orig_argv[sys.orig_argv.index("-m") + 1] if "-m" in sys.orig_argv else Path(sys.argv[0]).name
        sys.stderr.write(f"{name}: interrupted\n")
        raise SystemExit(130)
    root = Path(__file__).resolve().parents[1]
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if not package or (root / package).exists() or not (root / "Makefile").exists() or "-m" not in sys.orig_argv:
        return sys.__excepthook__(kind, error, trace)
    name = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    target = {"loadtest": "setup-loadtest", "tests": "setup-dev"}.get(name.partition(".")[0], "setup")
    remedy = f"run `make {target}`, then .venv/bin/python -m {name} in {root}"
    sys.stderr.write(f"{name}: {sys.executable} has no package {package}: {remedy}\n")
    raise SystemExit(2)


if _caller.f_globals["__name__"] in ("__main__", _package):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sys.excepthook = _hook
