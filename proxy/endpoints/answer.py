"""An answer under the name that the client asked for, whose tokens are counted and whose places are given back at its end."""

from collections.abc import AsyncIterator, Mapping, Sequence

from proxy.access.limits import Lease
from proxy.errors import ProxyError
from proxy.serving.upstream import Answer
from proxy.wire.openai import ChatCompletion, ChatRequest, Chunk


class RoutedAnswer:
    """An upstream's answer as the client sees it; see `proxy.serving.upstream.Answer`.

    Args:
        answer: the upstream's, asked for with usage wherever a ticket counts tokens.
        tickets: what it takes up; released at its end, whatever that is.
        request: the client's own.
        served_by: the name of what answers; told where it is not the one asked for.
    """

    def __init__(self, answer: Answer, tickets: Sequence[Lease], request: ChatRequest, *, served_by: str) -> None:
        self._answer = answer
        self._tickets = tickets
        self._model = request.model
        self._hide_usage = not (request.stream_options and request.stream_options.include_usage)
        self._served_by = served_by

    @property
    def headers(self) -> Mapping[str, str]:
        headers = dict(self._answer.headers)
        for ticket in reversed(self._tickets):
            headers |= ticket.headers
        if self._served_by != self._model:
            headers["x-proxy-served-by"] = self._served_by
        return headers

    async def whole(self) -> ChatCompletion:
        try:
            completion = await self._answer.whole()
            await self._settle(completion["usage"]["total_tokens"])
        except ProxyError as error:
            error.headers = {**self.headers, **error.headers}
            raise
        finally:
            await self._release()
        return {**completion, "model": self._model}

    async def batches(self) -> AsyncIterator[Sequence[Chunk]]:
        try:
            async for batch in self._answer.batches():
                for chunk in batch:
                    if usage := chunk.get("usage"):
                        await self._settle(usage["total_tokens"])
                if shown := [kept for chunk in batch if (kept := self._shown(chunk))]:
                    yield shown
        finally:
            await self._release()

    def close(self, *, delivered: bool) -> None:
        self._answer.close(delivered=delivered)

    def _shown(self, chunk: Chunk) -> Chunk | None:
        chunk = {**chunk, "model": self._model}
        if self._hide_usage:
            usage = chunk.pop("usage", None)
            if usage and not chunk["choices"]:
                return None
        return chunk

    async def _settle(self, tokens: int) -> None:
        """Count what was used; the estimate stays where that is not known, as with a job that ran into its token limit."""
        if not tokens:
            return
        for ticket in self._tickets:
            await ticket.settle(tokens)

    async def _release(self) -> None:
        for ticket in self._tickets:
            await ticket.release()
