"""What Narrative's answers and its wordings of a failure mean: one table of causes, each with the error that follows from it.

Narrative reports the same causes in a refused submission (HTTP 400 and an error body) and in a failed job (`failures`). The text is
that of the model's own platform, passed on, so that text is what is matched: Amazon Bedrock's, Anthropic's, OpenAI's, Snowflake's.
Sources: contracts `narrative.md` (documented causes of failure) and `heroku-chat.md` (Errors), and for each wording its own.
"""

import math
import re
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum, StrEnum, auto
from typing import Final, NamedTuple

from proxy.backends.narrative.types import parse_json
from proxy.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PaidFailure,
    PermissionDenied,
    ProxyError,
    RateLimited,
    UpstreamError,
    redact,
)


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


class Wording(NamedTuple):
    """A way to word a cause: a pattern found in the text whatever its case, a text that was seen, and where it was."""

    cause: Cause
    pattern: str
    example: str
    source: str


_CONTRACT: Final = "contract narrative.md, documented causes of failure"

# Tried in this order. A refused schema quotes names that the client chose, which may contain anything that follows.
# fmt: off
WORDINGS: Final = (
    Wording(Cause.INVALID_SCHEMA, r"\A\W*invalid schema\b", "Invalid schema", _CONTRACT),
    Wording(Cause.THROTTLED, r"throttl|too many (requests|tokens), please wait|too many requests",
            "ThrottlingException: Too many tokens, please wait before trying again.",
            "github.com/anthropics/claude-code/issues/236, github.com/strands-agents/agent-builder/issues/31"),
    Wording(Cause.THROTTLED, r"rate[ _-]?limit|rate exceeded|(requests|tokens) per (min|day)|quota[ _](was |is )?exceeded|"
            r"exceeded your (current )?quota",
            "Rate limit reached for gpt-4.1 on tokens per min (TPM): Limit 30000, Used 29000, Requested 4000. Please try again in 6s.",
            "help.openai.com/en/articles/5955604-how-can-i-so; metricsign.com/errors/snowflake-cortex-quota-exceeded"),
    Wording(Cause.OVERLOADED, r"too many connections|overloaded|service[ _]?unavailable|temporarily unavailable|"
            r"(in)?sufficient capacity|unable to process your request|model[ _]?(is )?not[ _]?ready|(http|status)( code)?:? ?(503|529)\b",
            "overloaded_error: Overloaded",
            "github.com/anthropics/claude-code/issues/39745; "
            "docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html"),
    Wording(Cause.CONTEXT_LENGTH, r"context[ _-]?(length|window|limit)",
            "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease input length and try again",
            "github.com/docker/docker-agent/issues/569, github.com/continuedev/continue/issues/6080"),
    Wording(Cause.CONTEXT_LENGTH, r"(prompt|input|request|messages?) (is |was |are )?too (long|large)|too many (input|prompt) tokens|"
            r"(input|prompt) tokens? ?(count|limit)?.{0,40}exceed|maximum (context|prompt|input)|max input (length|tokens)",
            "prompt is too long: 1000032 tokens > 1000000 maximum", "github.com/anomalyco/models.dev/pull/1221"),
    Wording(Cause.MAX_TOKENS, r"maximum allowed number of output tokens|max_(completion_|output_)?tokens\W.{0,20}too large|"
            r"supports at most \d+ (completion|output) tokens|maximum tokens you requested exceeds",
            "max_tokens: 128001 > 64000, which is the maximum allowed number of output tokens for claude-opus-4-5-20251101",
            "github.com/anthropics/claude-code/issues/24451; github.com/aws-samples/bedrock-access-gateway/issues/41"),
    Wording(Cause.TOKEN_LIMIT, r"token limit exceeded|exceed\w* (the )?`?max[ _]tokens|max[ _]tokens.{0,40}(exceeded|reached)",
            "Token limit exceeded", _CONTRACT),
    Wording(Cause.CONTENT_FILTER, r"content[ _-]?(filter|policy|management)|guardrail|safety (system|policy|filter)|"
            r"blocked by (the )?(safety|moderation)|moderation",
            "Blocked by guardrail", "docs.aws.amazon.com/bedrock/latest/userguide/guardrails-how.html"),
    Wording(Cause.SAMPLING, r"\b(temperature|top_p|top_k)\b.{0,80}(cannot both|not support|only the default|deprecated)|"
            r"(unsupported|unknown) (parameter|value)\W{0,4}(temperature|top_p|top_k)\b",
            "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
            "github.com/skydiscover-ai/skydiscover/issues/15; github.com/egoist/chatwise-releases/issues/940; "
            "github.com/lobehub/lobehub/pull/7747"),
    Wording(Cause.TOOL_BLOCKS, r"\btool_?(use|result|config)s?\b",
            "The toolConfig field must be defined when using toolUse and toolResult content blocks.",
            "github.com/langgenius/dify/issues/16421"),
    Wording(Cause.INVALID_SCHEMA, r"\bschema\b|output_format|\bgrammar\b",
            "The compiled grammar is too large, which would cause performance issues.",
            "github.com/anthropics/anthropic-sdk-python/issues/1185"),
    Wording(Cause.MODEL_UNAVAILABLE, r"model\b.{0,80}(unavailable|not available|not found|not supported|does not exist|unknown)|"
            r"(unknown|unsupported|invalid) model", "Model unavailable", _CONTRACT),
    Wording(Cause.INVALID_DATA_PLANE, r"data[ _-]?plane", "Invalid data plane", _CONTRACT),
)
# fmt: on

REJECTED: Final = "narrative_rejected"
UNREADABLE: Final = "narrative_record_unreadable"
UNKNOWN_OUTCOME: Final = "narrative_submit_unknown"
MAX_WORDS: Final = 500
"""Most characters of Narrative's words that an error repeats."""
MAX_RETRY_AFTER: Final = 60.0
DEFAULT_RETRY_AFTER: Final = 1.0
_MAX_TEXT: Final = 2_000
_THROTTLED_S: Final = 5.0
_OVERLOADED_S: Final = 2.0
_MAX_PAUSE_S: Final = 60.0
_PAUSE = re.compile(r"\b(?:in|after) (\d{1,6}(?:\.\d{1,6})?) ?(ms|s)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def cause_of(text: str) -> Cause:
    """The cause that a text of Narrative's names, `Cause.OTHER` when it names none. Only its first 2,000 characters count."""
    text = text[:_MAX_TEXT]
    flags = re.IGNORECASE | re.DOTALL
    return next((wording.cause for wording in WORDINGS if re.search(wording.pattern, text, flags)), Cause.OTHER)


def clean(text: str, secret: str, limit: int = 500) -> str:
    """A text of Narrative's as one short line that may be shown and logged.

    Args:
        secret: the API key of the call, struck out; one of fewer than 12 characters may be an ordinary word and is left.
        limit: most characters of the result.
    """
    return _CONTROL.sub(" ", redact(text, [secret])).strip()[:limit]


def error_for(text: str, *, code: str, job_id: str | None = None) -> ProxyError:
    """The error that tells a client why Narrative refused or failed.

    Args:
        text: Narrative's own text, free of secrets; shown to the client.
        code: of the error when the text names no cause of its own; `REJECTED` when a call was refused, and no job failed.
        job_id: the job that failed, or that the call was about.

    Returns:
        Only errors that follow from load (429 and 503) invite a repeat: any other request would fail, and be paid for, again.
    """
    what = "Narrative refused the request" if code == REJECTED else f"Narrative job {job_id} failed"
    message = f"{what}: {text or 'no reason was given'}"
    match cause_of(text):
        case Cause.THROTTLED:
            return RateLimited(message, retry_after=_pause(text, _THROTTLED_S), job_id=job_id)
        case Cause.OVERLOADED:
            return Overloaded(message, retry_after=_pause(text, _OVERLOADED_S), job_id=job_id)
        case Cause.CONTEXT_LENGTH:
            # LiteLLM recognizes the cause by this sentence alone, whatever the code is.
            too_long = f"The prompt is longer than the model's context length. {message}"
            return ContextLengthExceeded(too_long, param="messages", job_id=job_id)
        case Cause.MAX_TOKENS:
            return InvalidRequest(message, param="max_tokens", job_id=job_id)
        case Cause.SAMPLING:
            param = "top_p" if "top_p" in text else "temperature"
            return InvalidRequest(message, param=param, code="unsupported_parameter", job_id=job_id)
        case Cause.INVALID_SCHEMA:
            return InvalidRequest(message, code="invalid_json_schema", job_id=job_id)
        case Cause.MODEL_UNAVAILABLE:
            return ModelNotFound(message, param="model", job_id=job_id)
        case Cause.INVALID_DATA_PLANE:
            return PermissionDenied(message, job_id=job_id)
    kind = UpstreamError if code == REJECTED else PaidFailure
    return kind(message, code=code, job_id=job_id)


def _pause(text: str, default: float) -> float:
    """The seconds that a text asks to wait, such as "try again in 6s"."""
    asked = _PAUSE.search(text[:_MAX_TEXT])
    if asked is None:
        return default
    seconds = float(asked[1]) / (1_000 if asked[2].lower() == "ms" else 1)
    return min(max(seconds, 1.0), _MAX_PAUSE_S)


# ---------------------------------------------------------------- answers to calls


class Operation(StrEnum):
    """What is asked; it decides what a missing answer means."""

    SUBMIT = "submit"
    READ_JOB = "read_job"
    LIST_JOBS = "list_jobs"
    WEBHOOKS = "webhooks"


class Refusal(Exception):
    """The `__cause__` of an error that Narrative itself stated: HTTP status, its own words ("" when it gave none, at most `MAX_WORDS`
    characters), and the pause in seconds it asked for, if any."""

    def __init__(self, status: int, words: str, retry_after: float | None = None) -> None:
        super().__init__(f"HTTP {status}: {words}" if words else f"HTTP {status}")
        self.status = status
        self.words = words
        self.retry_after = retry_after


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
    return clean(words, secret, MAX_WORDS)


def refused(operation: Operation, refusal: Refusal, job_id: str | None) -> ProxyError:
    """The error for an answer that is not 2xx. `retry_after` is set exactly when a repeat of this very call can help and costs nothing."""
    status, words = refusal.status, refusal.words
    pause = DEFAULT_RETRY_AFTER if refusal.retry_after is None else refusal.retry_after
    said = f": {words}" if words else ""
    if status == 401:
        message = f"Narrative did not accept the API key{said}"
        return UpstreamError(message, code="narrative_unauthorized", job_id=job_id)
    if status == 403:
        return PermissionDenied(f"Narrative denied access{said}", job_id=job_id)
    if status == 429:
        return RateLimited(f"Narrative limits the rate of requests{said}", retry_after=pause, job_id=job_id)
    if 300 <= status < 400:
        return UpstreamError("Narrative answered with a redirect; its base URL may be wrong", code=REJECTED)
    if status >= 500 or status == 408:
        message = f"Narrative is not available (HTTP {status}){said}"
        return failed(operation, message, job_id, sent=status != 503, pause=pause)
    if status == 404 and operation is Operation.READ_JOB:
        return UpstreamError(f"Narrative does not know job {job_id}{said}", code="narrative_job_lost", job_id=job_id)
    if status == 404 and operation is Operation.WEBHOOKS:
        return UpstreamError(f"Narrative does not know the webhook{said}", code="narrative_webhook_lost")
    return error_for(words, code=REJECTED, job_id=job_id)


def failed(
    operation: Operation,
    message: str,
    job_id: str | None = None,
    *,
    sent: bool = True,
    pause: float = DEFAULT_RETRY_AFTER,
) -> UpstreamError:
    """The error for a call without a usable answer. `sent` is false only when nothing can have been enqueued."""
    if sent and operation is Operation.SUBMIT:
        message = f"{message}; whether a job was started is unknown"
        return UpstreamError(message, code=UNKNOWN_OUTCOME, job_may_exist=True)
    return UpstreamError(message, code="narrative_unavailable", retry_after=pause, job_id=job_id)
