"""Chat completions of an upstream as responses, whole or streamed, for every API that renders them."""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.http.headers import heartbeat_interval
from proxy.api.http.json_text import json_bytes
from proxy.api.http.responses import COMMENT, Delivery, EventStream, Pace, json_response
from proxy.errors import ProxyError
from proxy.serving.upstream import Answer
from proxy.settings import ChatSettings
from proxy.translate.chunks import heartbeat_after
from proxy.wire.openai import Chunk


@dataclass(frozen=True, slots=True)
class StreamEncoding:
    """How an API writes a stream. Every item of bytes is one whole event.

    Attributes:
        chunk: the events of a chunk; none where the API leaves it out.
        error: the last event of a stream that failed.
        end: the last event of one that did not.
    """

    chunk: Callable[[Chunk], Iterable[bytes]]
    error: Callable[[ProxyError], bytes]
    end: bytes


def stream_response(
    answer: Answer, headers: Mapping[str, str], settings: ChatSettings, encoding: StreamEncoding
) -> Response:
    """Stream an answer whose request, with these headers, was accepted."""
    last: Chunk | None = None

    async def batches() -> AsyncGenerator[Iterable[bytes], None]:
        nonlocal last
        async for batch in answer.batches():
            for last in batch:
                yield encoding.chunk(last)

    def heartbeat() -> bytes:
        if settings.heartbeat_style == "comment" or last is None:
            return COMMENT
        return b"".join(encoding.chunk(heartbeat_after(last))) or COMMENT

    return EventStream(
        batches(),
        encoding.end,
        _delivery(answer, encoding.error),
        Pace(heartbeat_interval(headers, settings.heartbeat_s), settings.stream_pace_ms / 1000, heartbeat),
    )


async def whole_response(
    request: Request, answer: Answer, keepalive_json_s: float, error: Callable[[ProxyError], bytes]
) -> Response:
    """The JSON of an answer whose request was accepted. Raises ProxyError as `Answer.whole`."""

    async def body() -> bytes:
        return json_bytes(await answer.whole())

    return await json_response(
        request, body(), _delivery(answer, error), heartbeat_interval(request.headers, keepalive_json_s)
    )


def _delivery(answer: Answer, error: Callable[[ProxyError], bytes]) -> Delivery:
    return Delivery(lambda: answer.headers, error, lambda delivered: answer.close(delivered=delivered))
