"""The one protocol between the OpenAI face and what answers it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from proxy.access.callers import Caller
from proxy.wire.openai import ChatCompletion, ChatRequest, Chunk


class Answer(Protocol):
    """An answer on its way: upstream has accepted the request, so that errors from here on invite no repeat.

    One of `whole` and `batches` is called, once. Cancelling it stops the waiting at once.
    """

    @property
    def headers(self) -> Mapping[str, str]:
        """Response headers, as far as they are known."""

    async def whole(self) -> ChatCompletion:
        """The completion. Raises ProxyError."""

    def batches(self) -> AsyncIterator[Sequence[Chunk]]:
        """The chunks, in batches of those that are known at once. Raises ProxyError."""


class Upstream(Protocol):
    """Something that answers chat requests."""

    async def accept(self, request: ChatRequest, caller: Caller) -> Answer:
        """Have a request accepted.

        Raises:
            ProxyError: it is refused, here or upstream.
        """
