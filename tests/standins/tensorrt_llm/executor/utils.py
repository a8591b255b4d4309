class RequestError(RuntimeError):
    """This request failed; the executor goes on."""
