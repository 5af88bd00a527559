"""What the `anthropic` SDK raises → our errors."""

import anthropic
import httpx2

from proxy.errors import (
    ContextLengthExceeded,
    InvalidApiKey,
    InvalidRequest,
    ModelNotFound,
    ProxyError,
    RateLimited,
    RequestTooLarge,
    UpstreamError,
    redact,
)
from proxy.failures import Cause, cause_of

SDK_ERRORS = (anthropic.AnthropicError, httpx2.HTTPError)
_DEFAULT_PAUSE_S = 1.0


def refused(error: Exception, api_key: str) -> ProxyError:
    """The error for a request that was not accepted: nothing was generated, nothing is paid."""
    if not isinstance(error, anthropic.APIStatusError):
        return UpstreamError(
            f"Anthropic cannot be reached ({type(error).__name__}).",
            code="anthropic_unavailable",
            retry_after=_DEFAULT_PAUSE_S,
        )
    words = _words(error, api_key)
    message = f"Anthropic refused the request: {words}"
    match error.status_code:
        case 400 | 422 if cause_of(words) is Cause.CONTEXT_LENGTH:
            return ContextLengthExceeded(message, param="messages")
        case 400 | 422:
            return InvalidRequest(message)
        case 401:
            return InvalidApiKey("Anthropic does not accept the API key.")
        case 402 | 403:
            return UpstreamError(message, code="anthropic_rejected")
        case 404:
            return ModelNotFound(message, param="model")
        case 413:
            return RequestTooLarge(message)
        case 429:
            return RateLimited(message, retry_after=_pause(error))
        case status if status >= 500 or status == 408:
            return UpstreamError(
                f"Anthropic is not available: {words}", code="anthropic_unavailable", retry_after=_pause(error)
            )
        case _:
            return UpstreamError(message, code="anthropic_rejected")


def broken_off(error: Exception, api_key: str) -> ProxyError:
    """The error for an answer that had begun: a repeat would pay for it again."""
    words = _words(error, api_key) if isinstance(error, anthropic.APIError) else type(error).__name__
    return UpstreamError(f"Anthropic's answer broke off: {words}", code="anthropic_failed")


def _words(error: anthropic.APIError, api_key: str) -> str:
    """Anthropic's own words, without the key should they repeat it."""
    body = error.body
    inner = body.get("error") if isinstance(body, dict) else None
    words = inner.get("message") if isinstance(inner, dict) else None
    text = words if isinstance(words, str) and words else type(error).__name__
    return redact(text, [api_key])[:1_000]


def _pause(error: anthropic.APIStatusError) -> float:
    try:
        return max(float(error.response.headers.get("retry-after", "")), _DEFAULT_PAUSE_S)
    except ValueError:
        return _DEFAULT_PAUSE_S
