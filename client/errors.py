"""Every exception this library raises; ``contract/errors.py`` draws the tree.

``code`` names the kind of error, ``field`` the request field of an ``InvalidRequest``. Only ConnectError, Overloaded
and EngineUnavailable are ever retried, and only before the first chunk.
"""

from contract.errors import (
    CODES,
    Cancelled,
    ChunkMissing,
    ClientError,
    ConnectError,
    ContextTooLong,
    DeadlineExceeded,
    DuplicateId,
    EngineUnavailable,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    NotAuthorized,
    Overloaded,
    RequestTimeout,
    ServingError,
    StreamBroken,
    StreamCut,
    Unsupported,
)

__all__ = [
    "CODES", "Cancelled", "ChunkMissing", "ClientError", "ConnectError", "ContextTooLong", "DeadlineExceeded",
    "DuplicateId", "EngineUnavailable", "InternalError", "InvalidRequest", "ModelNotFound", "NotAuthorized",
    "Overloaded", "RequestTimeout", "ServingError", "StreamBroken", "StreamCut", "Unsupported",
]  # fmt: skip
