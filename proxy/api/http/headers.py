"""What a client's headers say about its request beyond the body: who it is, whether it is a repeat, how long the client waits."""

import hashlib
import math
from collections.abc import Mapping
from typing import Final

from proxy.access.authentication import presented_keys
from proxy.errors import InvalidRequest
from proxy.inference.idempotency import Terms

MAX_KEY_LENGTH: Final = 255
_SILENCE: Final = ("x-stainless-read-timeout", "x-stainless-timeout")
_OVERALL: Final = ("x-request-timeout",)
_SHORTEST_HEARTBEAT_S: Final = 0.25


def credentials_digest(headers: Mapping[str, str]) -> str:
    """Tells clients apart by the key they present, in whatever header, and reveals nothing of it: 64 hexadecimal digits."""
    return hashlib.sha256("\0".join(presented_keys(headers)[:1]).encode()).hexdigest()


def heartbeat_interval(headers: Mapping[str, str], heartbeat_s: float) -> float:
    """Seconds between heartbeats: the setting, or half of the silence after which the client gives up if that is sooner. 0 stays off."""
    silence = _shortest(headers, _SILENCE)
    return min(heartbeat_s, max(silence / 2, _SHORTEST_HEARTBEAT_S))


def terms_of(headers: Mapping[str, str], *, heartbeat_s: float) -> Terms:
    """Read a request's headers (names in lower case).

    The SDKs' timeouts end when the first byte, or the next one, arrives: a response with heartbeats in between is not bound by them.

    Args:
        heartbeat_s: as of `heartbeat_interval`; 0 where the response has no heartbeats.

    Raises:
        InvalidRequest: the idempotency key cannot be used as one.
    """
    key = headers.get("idempotency-key", "").strip() or None
    if key is not None and len(key) > MAX_KEY_LENGTH:
        raise InvalidRequest(
            f"The idempotency key is longer than {MAX_KEY_LENGTH} characters.", param="Idempotency-Key"
        )
    silence = _shortest(headers, _SILENCE)
    if 0 < heartbeat_s < silence:
        silence = math.inf
    retries = headers.get("x-stainless-retry-count", "")
    return Terms(
        key=key,
        is_retry=retries.isdecimal() and int(retries[:9]) >= 1,
        timeout_s=min(silence, _shortest(headers, _OVERALL)),
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
