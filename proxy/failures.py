"""What Narrative's words for a failure mean: the one table from its causes to our errors.

Narrative says the same thing in a refused submission (HTTP 400 and an error body) and in a failed job (`failures`), in words
that vary with the model family behind it. Only words are given, so words are what is matched. Source: shared contracts
`narrative.md` (documented causes of failure) and `heroku-chat.md` (Errors).
"""

import re
from collections.abc import Mapping
from enum import Enum, auto

from proxy.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    ProxyError,
    UpstreamError,
)


class Cause(Enum):
    """Why Narrative refused a submission or failed a job."""

    CONTEXT_LENGTH = auto()
    """The prompt is too long for the model."""
    TOKEN_LIMIT = auto()
    """The reply would have exceeded `max_tokens`."""
    CONTENT_FILTER = auto()
    """The model or a guardrail refused to speak."""
    TOOL_BLOCKS = auto()
    """The upstream does not take `tool_use`/`tool_result` blocks in the history."""
    INVALID_SCHEMA = auto()
    MODEL_UNAVAILABLE = auto()
    INVALID_DATA_PLANE = auto()
    OTHER = auto()


# Tried in this order: the more telling phrase first.
_PHRASES: Mapping[Cause, re.Pattern[str]] = {
    cause: re.compile(pattern, re.IGNORECASE)
    for cause, pattern in {
        Cause.CONTEXT_LENGTH: r"context[ _-]?(length|window)|(prompt|input|request) (is |was )?too (long|large)|"
        r"too many (input|prompt) tokens|(input|prompt) tokens? (limit )?exceed|maximum (context|prompt|input)",
        Cause.TOKEN_LIMIT: r"token limit exceeded|exceed\w* (the )?max_tokens|max_tokens.{0,40}(exceeded|reached)",
        Cause.CONTENT_FILTER: r"content[ _-]?(filter|policy|management)|guardrail|safety (system|policy|filter)|"
        r"blocked by (the )?(safety|moderation)|moderation",
        Cause.TOOL_BLOCKS: r"\btool_?(use|result|config)s?\b|toolConfig",
        Cause.INVALID_SCHEMA: r"\bschema\b|output_format|grammar",
        Cause.MODEL_UNAVAILABLE: r"model\b.{0,80}(unavailable|not available|not found|not supported|does not exist|unknown)|"
        r"(unknown|unsupported|invalid) model",
        Cause.INVALID_DATA_PLANE: r"data[ _-]?plane",
    }.items()
}


def cause_of(words: str) -> Cause:
    """The cause that Narrative's words name, `Cause.OTHER` when they name none."""
    return next((cause for cause, phrase in _PHRASES.items() if phrase.search(words)), Cause.OTHER)


def error_for(words: str, *, code: str, job_id: str | None = None) -> ProxyError:
    """The error that tells a caller what Narrative said.

    Args:
        words: Narrative's own words, shown to the caller.
        code: the 502 code when the words name no cause that is the caller's to mend.
        job_id: the job that failed; None when the submission itself was refused.

    Returns:
        An error that invites no repeat: the same request would fail, and be paid for, again.
    """
    what = f"Narrative failed job {job_id}" if job_id else "Narrative refused the request"
    message = f"{what}: {words or 'no reason was given'}"
    match cause_of(words):
        case Cause.CONTEXT_LENGTH:
            # LiteLLM goes by these words alone, whatever the code says.
            too_long = f"The prompt is longer than the model's context length. {message}"
            return ContextLengthExceeded(too_long, param="messages", job_id=job_id)
        case Cause.INVALID_SCHEMA:
            return InvalidRequest(message, code="invalid_json_schema", job_id=job_id)
        case Cause.MODEL_UNAVAILABLE:
            return ModelNotFound(message, param="model", job_id=job_id)
        case Cause.INVALID_DATA_PLANE:
            return PermissionDenied(message, job_id=job_id)
        case _:
            return UpstreamError(message, code=code, job_id=job_id)
