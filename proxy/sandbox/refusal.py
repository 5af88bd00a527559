"""A call that Narrative refuses, in Narrative's error shape (contract narrative.md, section Base URL and authentication)."""

from collections.abc import Mapping
from typing import Any

NAMES: Mapping[int, str] = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    429: "too_many_requests",
    500: "internal_server_error",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "gateway_timeout",
}
"""HTTP status → `error`, where nothing more telling is known."""


class Refusal(Exception):
    """Ends a call with an error answer.

    Args:
        status: HTTP status.
        description: the sentence for `error_description`.
        error: the short name for `error`; by default the one that goes with the status.
        body: what to answer instead of the usual shape.
        headers: headers to add.
    """

    def __init__(
        self,
        status: int,
        description: str,
        *,
        error: str | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(description)
        self.status = status
        self.error = error or NAMES.get(status, "error")
        self.description = description
        self.headers = dict(headers or {})
        self.body: Any = {"error": self.error, "error_description": description} if body is None else body


class ModelRefusal(Exception):
    """What the model behind does not take: a 400 or a failed job, as the sandbox is set.

    Args:
        cause: one of the documented causes of failure, or the model's own words.
        message: the sentence that goes with it.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message
