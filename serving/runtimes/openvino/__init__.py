"""The CPU runtime. Whatever imports openvino imports this package first: openvino's own import reports to an analytics
service and writes an identifier into the user's home, and no environment variable keeps it from that (openvino
2026.4, ``openvino/tools/ovc/__init__.py``). Without the package that sends, it falls back to a stub of its own."""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it now raises ImportError
