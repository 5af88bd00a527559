"""The one protocol between the faces and what answers their chat requests."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.access.authentication import Caller
from proxy.wire.openai import ChatCompletion, ChatRequest, Chunk


@dataclass(frozen=True, slots=True)
class Terms:
    """How a client wants its request to be treated, beside what it asks.

    Attributes:
        client: tells clients apart; a digest of their credentials.
        key: the idempotency key, if the client sent one.
        is_retry: the client's library says that it repeats a request.
        patience_s: seconds the client waits for the whole answer.
    """

    client: str = ""
    key: str | None = None
    is_retry: bool = False
    patience_s: float = math.inf


DEFAULT_TERMS = Terms()


class Answer(Protocol):
    """An answer on its way: upstream has accepted the request, so that errors from here on invite no repeat.

    One of `whole` and `batches` is called, once, and `close` at the end. Cancelling it stops the waiting at once.
    """

    @property
    def headers(self) -> Mapping[str, str]:
        """Response headers, as far as they are known."""

    async def whole(self) -> ChatCompletion:
        """The completion. Raises ProxyError."""

    def batches(self) -> AsyncIterator[Sequence[Chunk]]:
        """The chunks, in batches of those that are known at once. Raises ProxyError."""

    def close(self, *, delivered: bool) -> None:
        """Nobody works on the answer any more; the first call counts. `delivered`: the client was sent all of it, else a repeat may
        take it up."""


class Upstream(Protocol):
    """Something that answers chat requests."""

    async def accept(self, request: ChatRequest, caller: Caller, terms: Terms = DEFAULT_TERMS) -> Answer:
        """Have a request accepted.

        Raises:
            ProxyError: it is refused, here or upstream.
        """
