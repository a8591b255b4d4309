"""`make serve`: one Triton, one gateway, supervised, on this machine."""
