"""An error answer in OpenAI's shape."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from contract.errors import ContextTooLong, api_type
from serving.gateway.schema.context_words import openais


class ApiError(Exception):
    """An answer other than 200. ``param`` is the request field it concerns, or ``None``."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        retry_after: int | None = None, close: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after, self.close = retry_after, close

    def fields(self) -> dict[str, Any]:
        """``{message, type, param, code}``."""
        message = openais(self.message) if self.code == ContextTooLong.code else self.message
        return {"message": message, "type": api_type(self.status), "param": self.param, "code": self.code}

    def body(self) -> bytes:
        """``{"error": {message, type, param, code}}``."""
        return orjson.dumps({"error": self.fields()})


def bad_request(param: str, problem: str, code: str | None = None) -> ApiError:
    return ApiError(400, f"{param}: {problem}", param=param, code=code)


@contextlib.contextmanager
def renaming(names: Mapping[str, str]) -> Iterator[None]:
    """Gives an ``ApiError`` of a chat request the field ``names`` of the endpoint that the request was made for."""
    try:
        yield
    except ApiError as error:
        name = names.get(error.param or "")
        if name and error.param:
            error.message, error.param = name + error.message.removeprefix(error.param), name
        raise error from None
