"""What Narrative's answers and its wordings of a failure mean: one table of causes, each with the error that follows from it.

Narrative reports the same causes in a refused submission (HTTP 400 and an error body) and in a failed job (`failures`). The text is
that of the model's own platform, passed on, so that text is what is matched: Amazon Bedrock's, Anthropic's, OpenAI's, Snowflake's.
Sources: contracts `narrative.md` (documented causes of failure) and `heroku-chat.md` (Errors).
"""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum, StrEnum, auto
from typing import Any, Final

from proxy import errors
from proxy.backends.narrative.types import parse_json


class Cause(Enum):
    """Why Narrative refused a submission or failed a job."""

    INVALID_SCHEMA = auto()  # the output schema was refused
    THROTTLED = auto()  # too many requests or tokens in a span of time
    OVERLOADED = auto()  # the model has no capacity at the moment
    CONTEXT_LENGTH = auto()  # the prompt, alone or with the reply's limit, is longer than the model's context
    MAX_TOKENS = auto()  # the reply's limit is above the model's largest output
    TOKEN_LIMIT = auto()  # the reply ran into its limit
    CONTENT_FILTER = auto()  # the model or a guardrail refused to answer
    SAMPLING = auto()  # the model does not accept a sampling parameter, or not two of them together
    TOOL_BLOCKS = auto()  # the model does not accept `tool_use` and `tool_result` blocks in the history
    MODEL_UNAVAILABLE = auto()  # there is no such model, or not in this data plane
    INVALID_DATA_PLANE = auto()
    OTHER = auto()


# Searched for in this order, in any letter case. A refused schema quotes names that the client chose, which may contain anything that
# follows. The tests have texts that were seen for each, with their sources.
# fmt: off
PATTERNS: Final = (
    (Cause.INVALID_SCHEMA, r"\A\W*invalid schema\b"),
    (Cause.THROTTLED, r"throttl|too many (requests|tokens), please wait|too many requests|rate[ _-]?limit|rate exceeded|"
        r"(requests|tokens) per (min|day)|quota[ _](was |is )?exceeded|exceeded your (current )?quota"),
    (Cause.OVERLOADED, r"too many connections|overloaded|service[ _]?unavailable|temporarily unavailable|(in)?sufficient capacity|"
        r"unable to process your request|model[ _]?(is )?not[ _]?ready|(http|status)( code)?:? ?(503|529)\b"),
    (Cause.CONTEXT_LENGTH, r"context[ _-]?(length|window|limit)|(prompt|input|request|messages?) (is |was |are )?too (long|large)|"
        r"too many (input|prompt) tokens|(input|prompt) tokens? ?(count|limit)?.{0,40}exceed|maximum (context|prompt|input)|"
        r"max input (length|tokens)"),
    (Cause.MAX_TOKENS, r"maximum allowed number of output tokens|max_(completion_|output_)?tokens\W.{0,20}too large|"
        r"supports at most \d+ (completion|output) tokens|maximum tokens you requested exceeds"),
    (Cause.TOKEN_LIMIT, r"token limit exceeded|exceed\w* (the )?`?max[ _]tokens|max[ _]tokens.{0,40}(exceeded|reached)"),
    (Cause.CONTENT_FILTER, r"content[ _-]?(filter|policy|management)|guardrail|safety (system|policy|filter)|"
        r"blocked by (the )?(safety|moderation)|moderation"),
    (Cause.SAMPLING, r"\b(temperature|top_p|top_k)\b.{0,80}(cannot both|not support|only the default|deprecated)|"
        r"(unsupported|unknown) (parameter|value)\W{0,4}(temperature|top_p|top_k)\b"),
    (Cause.TOOL_BLOCKS, r"\btool_?(use|result|config)s?\b"),
    (Cause.INVALID_SCHEMA, r"\bschema\b|output_format|\bgrammar\b"),
    (Cause.MODEL_UNAVAILABLE, r"model\b.{0,80}(unavailable|not available|not found|not supported|does not exist|unknown)|"
        r"(unknown|unsupported|invalid) model"),
    (Cause.INVALID_DATA_PLANE, r"data[ _-]?plane"),
)
# fmt: on

# Load goes by itself, so that these errors invite a repeat after so many seconds; any other request would fail, and be paid for, again.
_ERRORS: Final[Mapping[Cause, tuple[type[errors.ProxyError], dict[str, Any]]]] = {
    Cause.THROTTLED: (errors.RateLimited, {"retry_after": 5.0}),
    Cause.OVERLOADED: (errors.Overloaded, {"retry_after": 2.0}),
    Cause.CONTEXT_LENGTH: (errors.ContextLengthExceeded, {"param": "messages"}),
    Cause.MAX_TOKENS: (errors.InvalidRequest, {"param": "max_tokens"}),
    Cause.SAMPLING: (errors.InvalidRequest, {"param": "temperature", "code": "unsupported_parameter"}),
    Cause.INVALID_SCHEMA: (errors.InvalidRequest, {"code": "invalid_json_schema"}),
    Cause.MODEL_UNAVAILABLE: (errors.ModelNotFound, {"param": "model"}),
    Cause.INVALID_DATA_PLANE: (errors.PermissionDenied, {}),
}

REJECTED: Final = "narrative_rejected"
UNREADABLE: Final = "narrative_record_unreadable"
UNKNOWN_OUTCOME: Final = "narrative_submit_unknown"
MAX_WORDS: Final = 500
"""Most characters of Narrative's words that an error repeats."""
MAX_RETRY_AFTER: Final = 60.0
DEFAULT_RETRY_AFTER: Final = 1.0
_MAX_TEXT: Final = 2_000
_PAUSE: Final = re.compile(r"\b(?:in|after) (\d{1,6}(?:\.\d{1,6})?) ?(ms|s)", re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def cause_of(text: str) -> Cause:
    """The cause that a text of Narrative's names, `Cause.OTHER` when it names none. Only its first 2,000 characters count."""
    text, flags = text[:_MAX_TEXT], re.IGNORECASE | re.DOTALL
    return next((cause for cause, pattern in PATTERNS if re.search(pattern, text, flags)), Cause.OTHER)


def clean(text: str, secret: str) -> str:
    """A text of Narrative's as one line of at most `MAX_WORDS` characters that may be shown and logged, without the API key `secret`
    (one of fewer than 12 characters may be an ordinary word and is left)."""
    return _CONTROL.sub(" ", errors.redact(text, [secret])).strip()[:MAX_WORDS]


def error_for(text: str, *, code: str, job_id: str | None = None) -> errors.ProxyError:
    """The error that tells a client why Narrative refused or failed.

    Args:
        text: Narrative's own text, free of secrets; shown to the client. A pause it asks for ("try again in 6s") is passed on.
        code: of the error when the text names no cause of its own; `REJECTED` when a call was refused, and no job failed.
        job_id: the job that failed, or that the call was about.
    """
    what = "Narrative refused the request" if code == REJECTED else f"Narrative job {job_id} failed"
    message = f"{what}: {text or 'no reason was given'}"
    cause = cause_of(text)
    kind, fields = _ERRORS.get(
        cause, (errors.UpstreamError if code == REJECTED else errors.PaidFailure, {"code": code})
    )
    if cause is Cause.CONTEXT_LENGTH:
        # LiteLLM recognizes the cause by this sentence alone, whatever the code is.
        message = f"The prompt is longer than the model's context length. {message}"
    elif cause is Cause.SAMPLING and "top_p" in text:
        fields = {**fields, "param": "top_p"}
    elif "retry_after" in fields and (asked := _PAUSE.search(text[:_MAX_TEXT])):
        seconds = float(asked[1]) / (1_000 if asked[2].lower() == "ms" else 1)
        fields = {"retry_after": min(max(seconds, 1.0), MAX_RETRY_AFTER)}
    return kind(message, job_id=job_id, **fields)


class Operation(StrEnum):
    """What is asked; it decides what a missing answer means."""

    SUBMIT = "submit"
    READ_JOB = "read_job"
    LIST_JOBS = "list_jobs"
    WEBHOOKS = "webhooks"


@dataclass(eq=False)
class Refusal(Exception):
    """The `__cause__` of an error that Narrative itself stated: HTTP status, its own words ("" when it gave none, at most `MAX_WORDS`
    characters), and the pause in seconds it asked for, if any."""

    status: int
    words: str
    retry_after: float | None = None


def refusal_of(error: BaseException) -> Refusal | None:
    """The status and words with which Narrative refused, None when the error is not a refusal of Narrative's."""
    return error.__cause__ if isinstance(error.__cause__, Refusal) else None


def retry_after(header: str | None) -> float | None:
    """Seconds to wait by a `Retry-After` header, in seconds or as an HTTP date; within 0 and `MAX_RETRY_AFTER`."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = http_date(header) - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if not math.isnan(seconds) else None


def http_date(text: str) -> float:
    """Seconds since 1970; a missing zone means UTC. Raises ValueError when `text` is no date."""
    shown = parsedate_to_datetime(text)
    return (shown.replace(tzinfo=UTC) if shown.tzinfo is None else shown).timestamp()


def words_of(body: bytes, secret: str) -> str:
    """Narrative's error body as one short line; "" for HTML, nothing, or anything else."""
    try:
        found = parse_json(body)
        parts = (found.get("error"), found.get("error_description") or found.get("message"))
    except (ValueError, RecursionError, AttributeError):
        return ""
    words = ": ".join(dict.fromkeys(part for part in parts if isinstance(part, str) and part))
    return clean(words, secret)


def refused(operation: Operation, refusal: Refusal, job_id: str | None) -> errors.ProxyError:
    """The error for an answer that is not 2xx. `retry_after` is set exactly when a repeat of this very call can help and costs nothing."""
    status, said = refusal.status, f": {refusal.words}" if refusal.words else ""
    pause = DEFAULT_RETRY_AFTER if refusal.retry_after is None else refusal.retry_after
    if status == 401:
        message = f"Narrative did not accept the API key{said}"
        return errors.UpstreamError(message, code="narrative_unauthorized", job_id=job_id)
    if status == 403:
        return errors.PermissionDenied(f"Narrative denied access{said}", job_id=job_id)
    if status == 429:
        return errors.RateLimited(f"Narrative limits the rate of requests{said}", retry_after=pause, job_id=job_id)
    if 300 <= status < 400:
        return errors.UpstreamError("Narrative answered with a redirect; its base URL may be wrong", code=REJECTED)
    if status >= 500 or status == 408:
        message = f"Narrative is not available (HTTP {status}){said}"
        return failed(operation, message, job_id, sent=status != 503, pause=pause)
    if status == 404 and operation is Operation.READ_JOB:
        return errors.UpstreamError(
            f"Narrative does not know job {job_id}{said}", code="narrative_job_lost", job_id=job_id
        )
    if status == 404 and operation is Operation.WEBHOOKS:
        return errors.UpstreamError(f"Narrative does not know the webhook{said}", code="narrative_webhook_lost")
    return error_for(refusal.words, code=REJECTED, job_id=job_id)


def failed(
    operation: Operation,
    message: str,
    job_id: str | None = None,
    *,
    sent: bool = True,
    pause: float = DEFAULT_RETRY_AFTER,
) -> errors.UpstreamError:
    """The error for a call without a usable answer. `sent` is false only when nothing can have been enqueued."""
    if sent and operation is Operation.SUBMIT:
        message = f"{message}; whether a job was started is unknown"
        return errors.UpstreamError(message, code=UNKNOWN_OUTCOME, job_may_exist=True)
    return errors.UpstreamError(message, code="narrative_unavailable", retry_after=pause, job_id=job_id)
