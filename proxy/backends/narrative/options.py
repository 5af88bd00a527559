"""Settings of the client, as one frozen value. All times are seconds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How the client connects, how long it waits and how it repeats.

    `write_timeout` is not enforced by the aiohttp transport; `total_timeout` bounds a stuck write, as it bounds an
    answer that trickles in.
    """

    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    """Longest silence while an answer is awaited or read."""
    write_timeout: float = 30.0
    pool_timeout: float = 10.0
    """Longest wait for a free connection."""
    total_timeout: float = 60.0
    """Longest time one request may take from start to last byte."""
    max_connections: int = 100
    keepalive: float = 15.0
    """How long an idle connection is kept. Short: a POST on one that the other side just closed has an unknown outcome."""
    max_answer_bytes: int = 64 * 1024 * 1024
    """A longer answer is not read to its end and counts as unreadable."""
    patience: float = 30.0
    """How long a call is repeated when the caller names no deadline."""
    submit_patience: float = 45.0
    """How long a submission is repeated at most, even when the deadline is later: somebody waits for its first byte."""
    first_backoff: float = 0.25
    """First pause between repeats; it doubles, with jitter."""
    max_backoff: float = 8.0
    closing_grace: float = 5.0
    """How long `aclose` waits for requests on their way before it cancels them."""
