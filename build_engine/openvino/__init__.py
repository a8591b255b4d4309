"""Checkpoint to CPU engine."""

import serving.runtimes.openvino  # noqa: F401  # before openvino: it keeps it from reporting to its makers
