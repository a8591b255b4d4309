"""BF16 checkpoint -> FP8 checkpoint with static scales, which vLLM and TensorRT-LLM's PyTorch backend both read."""
