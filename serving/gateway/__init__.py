"""The OpenAI-compatible gateway in front of Triton. ``python -m serving.gateway``; settings in ``settings.py``."""
