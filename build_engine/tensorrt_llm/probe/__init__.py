"""``make probe``: is the TensorRT-LLM of this machine the one this project was written for? Not run on a GPU by us."""
