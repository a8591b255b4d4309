"""The pure core behind the Triton models: requests, streams, text; nothing here imports Triton except ``triton_io``."""
