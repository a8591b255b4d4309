"""Import before anything that imports gRPC: its fork handlers are off in this process.

They also run in a child that Python has not replaced by its program yet (``preexec_fn``), and one of those hung there
for good. gRPC reads the variable once, so the servers that tests start keep its handlers.
"""

import contextlib
import os

NAME = "GRPC_ENABLE_FORK_SUPPORT"

if NAME not in os.environ:
    os.environ[NAME] = "false"
    with contextlib.suppress(ImportError):  # as in the environment of tests/oracle
        import grpc

        grpc.insecure_channel("127.0.0.1:9").close()
    del os.environ[NAME]
