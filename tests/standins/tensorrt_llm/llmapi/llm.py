from .._result import RequestOutput

__all__ = ["RequestOutput"]
