"""``make bench-cpu``: the CPU engine against llama.cpp, openvino-genai and transformers on the same weights."""
