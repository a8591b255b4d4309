"""``python -m serving.gateway``"""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the supervisor can answer it: no traceback out of an import

from serving.gateway.supervisor import main

sys.exit(main())
