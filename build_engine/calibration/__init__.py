"""Prompts for quantization and for the accuracy gate."""
