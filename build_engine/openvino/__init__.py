"""Checkpoint to CPU engine."""

import serving.runtimes.openvino  # noqa: F401  # before openvino: turns its telemetry off
