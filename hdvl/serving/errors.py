"""Errors as clients of OpenAI's API expect them: a status, and a body that explains what to change."""

from typing import Any

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}


MAX_MESSAGE = 2000
"""The most characters of a message; requests are quoted in some."""


class APIError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: the reason, and what to change.
        param: the field of the request that is wrong.
        code: a short name of the reason, such as ``model_not_found``.
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        message = _sendable(message)
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response."""
        kind = _TYPES.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        }


def _sendable(message: str) -> str:
    """A message of bounded length, without halves of characters, which requests may hold."""
    if len(message) > MAX_MESSAGE:
        message = f"{message[:MAX_MESSAGE]} ... ({len(message)} characters)"
    return message.encode(errors="backslashreplace").decode()


def bad_request(message: str, param: str | None = None, code: str | None = None) -> APIError:
    """An error of the client, status 400."""
    return APIError(400, message, param=param, code=code)
