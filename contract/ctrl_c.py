"""Ends a program on Ctrl-C without a traceback while it is still importing. Every program imports this first.

This holds until the program installs a SIGINT handler of its own. Imported by any other module, or by a user's program,
it does nothing.
"""

import signal
import sys

_caller = sys._getframe(1)
while _caller.f_back and _caller.f_code.co_filename.startswith("<frozen importlib"):
    _caller = _caller.f_back
# While `python -m PACKAGE` imports the package itself, argv[0] is "-m".
_package = sys.orig_argv[sys.orig_argv.index("-m") + 1] if sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv else ""
if _caller.f_globals["__name__"] in ("__main__", _package):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
