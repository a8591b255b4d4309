"""Each program imports this first: Ctrl-C while it loads the rest ends it without a traceback out of an import.

It holds until the program answers SIGINT itself. Where another module is loading, or a user's program, it does nothing.
"""

import signal
import sys

_caller = sys._getframe(1)
while _caller.f_back and _caller.f_code.co_filename.startswith("<frozen importlib"):
    _caller = _caller.f_back
# While `python -m PACKAGE` loads the package itself, argv[0] is -m.
_package = sys.orig_argv[sys.orig_argv.index("-m") + 1] if sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv else ""
if _caller.f_globals["__name__"] in ("__main__", _package):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
