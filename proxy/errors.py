"""One tree of errors. Each knows its HTTP status, OpenAI `type` and `code`, and whether a repeat of the request can help.

The message is safe to show to the caller. Each API renders errors in one place.
Source: shared contract `heroku-chat.md`, section Errors.

    ProxyError
    ├── InvalidRequest                400  the request is wrong; `param` is the path of the field
    │   ├── ContextLengthExceeded     400  the prompt is too long for the model
    │   ├── SchemaTooComplex          400  the JSON Schemas of a request need more work than one request may cause
    │   ├── ModelNotFound             404
    │   ├── UnknownUrl                404
    │   ├── MethodNotAllowed          405
    │   └── RequestTooLarge           413
    ├── InvalidApiKey                 401
    ├── PermissionDenied              403
    ├── IdempotencyConflict           409  same key still running elsewhere
    ├── IdempotencyMismatch           422  same key, another body
    ├── RateLimited                   429
    ├── InternalError                 500  a bug here
    ├── UpstreamError                 502  the upstream could not be asked, or refused; `code` says how
    │   └── PaidFailure               424  a paid job failed or answered nonsense: repeating it would be paid again
    ├── Overloaded                    503  too much in flight here, or draining
    │   └── StoreUnavailable          503  keys or named endpoints cannot be read
    └── JobTimeout                    504  the job did not end in time
"""

import math
import re
from collections.abc import Iterable
from typing import ClassVar, Final

REDACTED: Final = "[redacted]"
_MIN_KEY_LENGTH: Final = 12
_LOOKS_LIKE_KEY: Final = re.compile(r"\b(?:sk|np|pk|rk)-[A-Za-z0-9_-]{9,}")


def redact(text: str, keys: Iterable[str]) -> str:
    """A text without these keys, and without what looks like one.

    Keys of fewer than 12 characters stay: they could be words that the text needs.
    """
    for key in keys:
        if len(key) >= _MIN_KEY_LENGTH:
            text = text.replace(key, REDACTED)
    return _LOOKS_LIKE_KEY.sub(REDACTED, text)


MAX_RETRY_AFTER_S: Final = 60
RESUME_AFTER_S = 1.0
"""Seconds after which a client is asked to repeat a request whose jobs go on without it."""

_RESUMABLE_CODES = frozenset({"job_timeout", "narrative_unavailable", "narrative_submit_unknown"})
"""Errors that leave a job running, or one that may exist, whose result a repeat can still get."""


class ProxyError(Exception):
    """Base of all errors that leave the server.

    Args:
        message: a sentence for the caller, free of secrets and prompts.
        param: path of the field at fault, such as `messages[2].content[0].type`.
        code: the machine-readable code, where it differs from the class's own.
        retry_after: seconds after which a repeat can help; None when a repeat cannot help or could pay twice.
        job_id: the Narrative job concerned, once one exists.
        job_may_exist: whether a job of this request exists or may, and was or will be paid for; implied by `job_id`.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(  # noqa: PLR0913
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        job_id: str | None = None,
        job_may_exist: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after = retry_after
        self.job_id = job_id
        self.job_may_exist = job_may_exist or job_id is not None
        self.headers: dict[str, str] = {}
        """Response headers that are known where the error was raised, such as what is left of a limit."""

    def advise_with_jobs(self, *, resumable: bool) -> None:
        """Set the retry advice of a request for which a job exists, or may exist, that was not delivered.

        Called in one place, by the layer that knows the request's record (`proxy.inference.idempotency`).

        Args:
            resumable: a repeat takes the jobs up instead of paying for new ones.
        """
        if not resumable:
            self.retry_after = None
        elif self.retry_after is None and self.code in _RESUMABLE_CODES:
            self.retry_after = RESUME_AFTER_S


def error_headers(error: ProxyError) -> dict[str, str]:
    """Whether a retry can help: the SDKs retry 408, 409, 429 and every 5xx by themselves, and each retry may be a new, paid job."""
    headers = {**error.headers, "x-should-retry": "false"}
    if error.retry_after is not None:
        headers |= {"x-should-retry": "true", "retry-after": retry_after(error.retry_after)}
    if error.job_id is not None:
        headers["x-narrative-job-id"] = error.job_id
    return headers


def retry_after(seconds: float) -> str:
    """The value of `Retry-After`: whole seconds, 1 to 60."""
    return str(min(max(math.ceil(seconds), 1), MAX_RETRY_AFTER_S))


class InvalidRequest(ProxyError):
    """The request is wrong; `param` is the path of the field."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """The prompt is too long for the model, which the proxy estimates or Narrative says."""

    default_code = "context_length_exceeded"


class SchemaTooComplex(InvalidRequest):
    """The JSON Schemas of a request, together, are too much work; `param` names the one at which the limit was reached."""

    default_code = "schema_too_complex"


class ModelNotFound(InvalidRequest):
    """There is neither a model nor an endpoint of that name."""

    status = 404
    default_code = "model_not_found"


class UnknownUrl(InvalidRequest):
    """Nothing is served under that path."""

    status = 404
    default_code = "unknown_url"


class MethodNotAllowed(InvalidRequest):
    """Something is served under that path, with another method."""

    status = 405
    default_code = "method_not_allowed"


class RequestTooLarge(InvalidRequest):
    """The body has more bytes than `server.max_body_bytes`, as sent or decompressed."""

    status = 413
    default_code = "request_too_large"


class InvalidApiKey(ProxyError):
    """No key, or one that is wrong, revoked or expired; the message does not tell which of these."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class PermissionDenied(ProxyError):
    """The key is good, and does not give access to what was asked for."""

    status = 403
    type = "permission_error"


class IdempotencyConflict(ProxyError):
    """The same key is in use by a request that is still being submitted on another replica."""

    status = 409
    type = "idempotency_error"
    default_code = "idempotency_key_in_use"


class IdempotencyMismatch(ProxyError):
    """The key was used before, with another body."""

    status = 422
    type = "idempotency_error"
    default_code = "idempotency_key_reused"


class RateLimited(ProxyError):
    """A limit of the caller, the model or the upstream; `retry_after` says when it lifts."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class InternalError(ProxyError):
    """A bug here."""

    status = 500
    type = "server_error"
    default_code = "internal_error"


class UpstreamError(ProxyError):
    """Codes in use: `narrative_unavailable` (nothing was enqueued), `narrative_submit_unknown` (a job may exist),
    `narrative_unauthorized`, `narrative_rejected`; `anthropic_unavailable`, `anthropic_rejected`, `endpoint_unauthorized`."""

    status = 502
    type = "upstream_error"


class PaidFailure(UpstreamError):
    """Codes in use: `narrative_job_failed`, `narrative_job_cancelled`, `narrative_job_lost`, `narrative_invalid_output`,
    `anthropic_failed`. The status is one that no client repeats; the setting `chat.paid_failure_status` changes it.

    Raised when all that was paid for the request is lost, or part of it: then the record of its submissions keeps the rest.
    """

    status = 424


class Overloaded(ProxyError):
    """Too much is in flight here, or the process drains; nothing was begun."""

    status = 503
    type = "overloaded_error"


class StoreUnavailable(Overloaded):
    """Keys or named endpoints cannot be read."""

    default_code = "state_unavailable"


class JobTimeout(ProxyError):
    """The job did not end in time. It runs on, and a repeat can still get its result."""

    status = 504
    type = "timeout_error"
    default_code = "job_timeout"
