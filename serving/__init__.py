"""The steps behind the Triton models, the engines' runtimes, the launcher and the gateway (docs/architecture.md)."""
