"""What a client's headers say about its request beyond the body: whether it is a repeat, and how long the client waits."""

import hashlib
import math
from collections.abc import Mapping

from proxy.errors import InvalidRequest
from proxy.serving.upstream import Terms

MAX_KEY_LENGTH = 255
_SILENCE = ("x-stainless-read-timeout", "x-stainless-timeout")
_OVERALL = ("x-request-timeout",)
_CREDENTIALS = ("authorization", "x-api-key")


def terms_of(headers: Mapping[str, str], *, stream: bool, heartbeat_s: float) -> Terms:
    """Read a request's headers (names in lower case).

    The SDKs' timeouts end when the first byte, or the next one, arrives: a stream whose heartbeats come sooner is not bound by them.

    Raises:
        InvalidRequest: the idempotency key cannot be used as one.
    """
    key = headers.get("idempotency-key", "").strip() or None
    if key is not None and len(key) > MAX_KEY_LENGTH:
        raise InvalidRequest(
            f"The idempotency key is longer than {MAX_KEY_LENGTH} characters.", param="Idempotency-Key"
        )
    silence = _shortest(headers, _SILENCE)
    if stream and 0 < heartbeat_s < silence:
        silence = math.inf
    retries = headers.get("x-stainless-retry-count", "")
    return Terms(
        client=_digest(*(headers.get(name, "") for name in _CREDENTIALS)),
        key=key,
        is_retry=retries.isdecimal() and int(retries[:9]) >= 1,
        patience_s=min(silence, _shortest(headers, _OVERALL)),
    )


def _shortest(headers: Mapping[str, str], names: tuple[str, ...]) -> float:
    """The shortest timeout in seconds that any of these headers names, infinity when none does."""
    return min((_seconds(headers.get(name, "")) for name in names), default=math.inf)


def _seconds(text: str) -> float:
    try:
        seconds = float(text.strip().removesuffix("s"))
    except ValueError:
        return math.inf
    return seconds if seconds > 0 else math.inf


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
