"""One tree of errors. Each knows its HTTP status, OpenAI `type` and `code`, and whether a repeat of the request can help.

The message is safe to show to the caller. Each API renders errors in one place.
Source: shared contract `heroku-chat.md`, section Errors.
"""

import math
import re
from collections.abc import Iterable
from typing import ClassVar, Final

REDACTED: Final = "[redacted]"
_MIN_KEY_LENGTH: Final = 12
_LOOKS_LIKE_KEY: Final = re.compile(r"\b(?:sk|np|pk|rk)-[A-Za-z0-9_-]{9,}")
_MAX_RETRY_AFTER_S: Final = 60
_RESUMABLE_CODES: Final = frozenset({"job_timeout", "narrative_unavailable", "narrative_submit_unknown"})
"""Errors that leave a job running, or one that may exist, whose result a repeat can still get."""


def redact(text: str, keys: Iterable[str]) -> str:
    """A text without these keys, and without what looks like one.

    Keys of fewer than 12 characters stay: they could be words that the text needs.
    """
    for key in keys:
        if len(key) >= _MIN_KEY_LENGTH:
            text = text.replace(key, REDACTED)
    return _LOOKS_LIKE_KEY.sub(REDACTED, text)


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

    def __init_subclass__(cls, *, status: int | None = None, type: str | None = None, code: str | None = None) -> None:
        """What is not named is that of the base class."""
        cls.status, cls.type, cls.default_code = status or cls.status, type or cls.type, code or cls.default_code

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
        """Set the retry advice of a request for which a job exists, or may exist, that was not delivered; `resumable`: a repeat takes
        the jobs up instead of paying for new ones. Called by `proxy.inference.idempotency` alone, which knows the request's record."""
        if not resumable:
            self.retry_after = None
        elif self.retry_after is None and self.code in _RESUMABLE_CODES:
            self.retry_after = 1.0  # its jobs go on without the client


def error_headers(error: ProxyError) -> dict[str, str]:
    """Whether a retry can help: the SDKs retry 408, 409, 429 and every 5xx by themselves, and each retry may be a new, paid job."""
    headers = {**error.headers, "x-should-retry": "false"}
    if error.retry_after is not None:
        seconds = min(max(math.ceil(error.retry_after), 1), _MAX_RETRY_AFTER_S)
        headers |= {"x-should-retry": "true", "retry-after": str(seconds)}
    if error.job_id is not None:
        headers["x-narrative-job-id"] = error.job_id
    return headers


class InvalidRequest(ProxyError, status=400, type="invalid_request_error"):
    """The request is wrong; `param` is the path of the field."""


class ContextLengthExceeded(InvalidRequest, code="context_length_exceeded"):
    """The prompt is too long for the model, which the proxy estimates or Narrative says."""


class SchemaTooComplex(InvalidRequest, code="schema_too_complex"):
    """The JSON Schemas of a request, together, are too much work; `param` names the one at which the limit was reached."""


class ModelNotFound(InvalidRequest, status=404, code="model_not_found"):
    """There is neither a model nor an endpoint of that name."""


class ResponseNotFound(InvalidRequest, status=404):
    """No stored response, or item of one, has that id: it is unknown, expired, deleted or another key's; the message does not say which."""


class FileNotFound(InvalidRequest, status=404):
    """No file, or no batch, has that id: it is unknown, expired, deleted or another key's; the message does not say which."""


class BatchConflict(InvalidRequest, status=409):
    """A batch has ended, or uses the file, so that it cannot be cancelled or deleted."""


class BatchesNeedState(InvalidRequest, status=501, code="batches_need_state"):
    """Batches are not served: there is nowhere to keep them, or no secret to seal them with."""


class UnknownUrl(InvalidRequest, status=404, code="unknown_url"):
    """Nothing is served under that path."""


class MethodNotAllowed(InvalidRequest, status=405, code="method_not_allowed"):
    """Something is served under that path, with another method."""


class RequestTooLarge(InvalidRequest, status=413, code="request_too_large"):
    """The body has more bytes than `server.max_body_bytes`, as sent or decompressed."""


class InvalidApiKey(ProxyError, status=401, type="authentication_error", code="invalid_api_key"):
    """No key, or one that is wrong, revoked or expired; the message does not tell which of these."""


class PermissionDenied(ProxyError, status=403, type="permission_error"):
    """The key is good, and does not give access to what was asked for."""


class IdempotencyConflict(ProxyError, status=409, type="idempotency_error", code="idempotency_key_in_use"):
    """The same key is in use by a request that is still being submitted on another replica."""


class IdempotencyMismatch(ProxyError, status=422, type="idempotency_error", code="idempotency_key_reused"):
    """The key was used before, with another body."""


class RateLimited(ProxyError, status=429, type="rate_limit_error", code="rate_limit_exceeded"):
    """A limit of the caller, the model or the upstream; `retry_after` says when it lifts."""


class InternalError(ProxyError, status=500, type="server_error", code="internal_error"):
    """A bug here."""


class UpstreamError(ProxyError, status=502, type="upstream_error"):
    """Codes in use: `narrative_unavailable` (nothing was enqueued), `narrative_submit_unknown` (a job may exist),
    `narrative_unauthorized`, `narrative_rejected`; `anthropic_unavailable`, `anthropic_rejected`, `endpoint_unauthorized`."""


class PaidFailure(UpstreamError, status=424):
    """Codes in use: `narrative_job_failed`, `narrative_job_cancelled`, `narrative_job_lost`, `narrative_invalid_output`,
    `anthropic_failed`. The status is one that no client repeats; the setting `chat.paid_failure_status` changes it.

    Raised when all that was paid for the request is lost, or part of it: then the record of its submissions keeps the rest.
    """


class Overloaded(ProxyError, status=503, type="overloaded_error"):
    """Too much is in flight here, or the process drains; nothing was begun."""


class StoreUnavailable(Overloaded, code="state_unavailable"):
    """The store of keys, named endpoints, responses, files and batches cannot be reached."""


class JobTimeout(ProxyError, status=504, type="timeout_error", code="job_timeout"):
    """The job did not end in time. It runs on, and a repeat can still get its result."""
