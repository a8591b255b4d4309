"""`make bench-gpu`: transformers, vLLM and this project side by side on one GPU."""
