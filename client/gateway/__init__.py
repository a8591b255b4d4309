"""The OpenAI-compatible gateway in front of Triton. ``python -m client.gateway``; settings in ``settings.py``."""
