from .._result import CompletionOutput

__all__ = ["CompletionOutput"]
