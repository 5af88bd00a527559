"""What the outcome of an HTTP request to Narrative means: a parsed body, or an error with a code.

Source: shared contract `narrative.md`, sections Base URL and authentication, `POST /model-inference/run`,
`GET /jobs/{job_id}`.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

from proxy.backends.narrative import failures
from proxy.backends.narrative.records import parse_json
from proxy.backends.narrative.transport import Answer, NoAnswer, Operation, Outcome
from proxy.backends.narrative.types import ApiError
from proxy.errors import PermissionDenied, ProxyError, RateLimited, UpstreamError

MAX_WORDS: Final = 500
"""Most characters of Narrative's words that an error repeats."""
MAX_RETRY_AFTER: Final = 60.0
DEFAULT_RETRY_AFTER: Final = 1.0
UNREADABLE: Final = "narrative_record_unreadable"
UNKNOWN_OUTCOME: Final = "narrative_submit_unknown"
T = TypeVar("T")


class UnreadableRecord(ValueError):
    """Raised by a parser for well-formed JSON that is not the record of the job that was asked for."""


class Refusal(Exception):
    """The `__cause__` of an error that Narrative itself stated.

    Args:
        status: the HTTP status.
        words: Narrative's own words, at most `MAX_WORDS` characters, "" when it gave none.
        retry_after: the pause in seconds it asked for, None when it asked for none.
    """

    def __init__(self, status: int, words: str, retry_after: float | None = None) -> None:
        super().__init__(f"HTTP {status}: {words}" if words else f"HTTP {status}")
        self.status = status
        self.words = words
        self.retry_after = retry_after


def refusal_of(error: BaseException) -> Refusal | None:
    """The status and words with which Narrative refused, None when the error is not a refusal of Narrative's."""
    return error.__cause__ if isinstance(error.__cause__, Refusal) else None


def read(
    outcome: Outcome, parse: Callable[[bytes], T], operation: Operation, secret: str, job_id: str | None = None
) -> T:
    """The body of a 2xx answer, parsed.

    Args:
        outcome: what the transport brought back.
        parse: reads a body; raises ValueError when it cannot.
        operation: what was asked.
        secret: the API key, struck out of any words that are repeated.
        job_id: the job that was asked for.

    Raises:
        ProxyError: the fault, named. `retry_after` is set exactly when a repeat of this very call can help and costs
            nothing.
    """
    if isinstance(outcome, NoAnswer):
        raise _silence(outcome, operation, job_id)
    if not 200 <= outcome.status < 300:
        refusal = Refusal(outcome.status, _words(outcome, secret), retry_after(outcome.headers.get("retry-after")))
        raise _refused(refusal, operation, job_id) from refusal
    try:
        if outcome.whole:
            return parse(outcome.body)
    except UnreadableRecord:
        message = f"Narrative's record of job {job_id} could not be read"
        raise UpstreamError(message, code=UNREADABLE, retry_after=DEFAULT_RETRY_AFTER, job_id=job_id) from None
    except (ValueError, RecursionError):
        pass
    if operation is Operation.SUBMIT:
        raise _unknown("Narrative's answer to the submission could not be read")
    raise _unavailable("Narrative's answer could not be read", DEFAULT_RETRY_AFTER, job_id)


def retry_after(header: str | None) -> float | None:
    """Seconds to wait by a `Retry-After` header, in seconds or as an HTTP date; within 0 and `MAX_RETRY_AFTER`."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            when = parsedate_to_datetime(header)
        except ValueError:
            return None
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
        seconds = (when - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if not math.isnan(seconds) else None


def _words(answer: Answer, secret: str) -> str:
    """Narrative's error body as one short line; "" for HTML, nothing, or anything else."""
    try:
        body = parse_json(answer.body)
        error = ApiError.model_validate(body)
    except (ValueError, RecursionError):
        return ""
    parts = [error.error, error.error_description or body.get("message")]
    words = ": ".join(dict.fromkeys(part for part in parts if isinstance(part, str) and part))
    return failures.clean(words, secret, MAX_WORDS)


def _silence(outcome: NoAnswer, operation: Operation, job_id: str | None) -> ProxyError:
    if not outcome.sent:
        return _unavailable(f"Narrative could not be reached ({outcome.reason})", DEFAULT_RETRY_AFTER, job_id)
    if operation is Operation.SUBMIT:
        return _unknown(f"Narrative did not answer the submission ({outcome.reason})")
    return _unavailable(f"Narrative did not answer ({outcome.reason})", DEFAULT_RETRY_AFTER, job_id)


def _refused(refusal: Refusal, operation: Operation, job_id: str | None) -> ProxyError:
    status, words = refusal.status, refusal.words
    pause = DEFAULT_RETRY_AFTER if refusal.retry_after is None else refusal.retry_after
    if status == 401:
        return UpstreamError(
            _say("Narrative did not accept the API key", words), code="narrative_unauthorized", job_id=job_id
        )
    if status == 403:
        return PermissionDenied(_say("Narrative denied access", words), job_id=job_id)
    if status == 429:
        return RateLimited(_say("Narrative limits the rate of requests", words), retry_after=pause, job_id=job_id)
    if 300 <= status < 400:
        return UpstreamError("Narrative answered with a redirect; its base URL may be wrong", code="narrative_rejected")
    transient = status >= 500 or status == 408
    if status == 503 or (transient and operation is not Operation.SUBMIT):
        return _unavailable(_say(f"Narrative is not available (HTTP {status})", words), pause, job_id)
    if transient:
        return _unknown(_say(f"Narrative failed while it took the submission (HTTP {status})", words))
    if status == 404 and operation is Operation.READ_JOB:
        return UpstreamError(
            _say(f"Narrative does not know job {job_id}", words), code="narrative_job_lost", job_id=job_id
        )
    if status == 404 and operation is Operation.WEBHOOKS:
        return UpstreamError(_say("Narrative does not know the webhook", words), code="narrative_webhook_lost")
    return failures.error_for(words, code="narrative_rejected", job_id=job_id)


def _say(fact: str, words: str) -> str:
    return f"{fact}: {words}" if words else fact


def _unavailable(message: str, pause: float, job_id: str | None) -> ProxyError:
    return UpstreamError(message, code="narrative_unavailable", retry_after=pause, job_id=job_id)


def _unknown(message: str) -> ProxyError:
    return UpstreamError(f"{message}; whether a job was started is unknown", code=UNKNOWN_OUTCOME, job_may_exist=True)
