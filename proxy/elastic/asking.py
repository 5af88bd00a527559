"""Bodies of inference calls → chat requests, and the bytes of their streams. No I/O.

Source: contract `elastic-inference.md`.
"""

import re
from collections.abc import Iterator
from typing import Any

from proxy.api.http.completions import StreamEncoding
from proxy.api.http.json_text import json_line
from proxy.elastic.errors import error_answer
from proxy.errors import InvalidRequest, ProxyError
from proxy.wire.elastic import ChatCompletionBody, CompletionBody, CompletionPiece, TaskSettings
from proxy.wire.openai import ChatRequest, Chunk, StreamOptions

_SPAN = re.compile(r"\A(\d{1,9})(ms|s|m|h|d)\Z")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DONE = b"event: message\ndata: [DONE]\n\n"


def completion_requests(inference_id: str, body: CompletionBody, *, stream: bool) -> list[ChatRequest]:
    """One chat request for each input.

    Raises:
        InvalidRequest: an input is blank, or there are several for one stream.
    """
    texts = [body.input] if isinstance(body.input, str) else body.input
    if stream and len(texts) > 1:
        raise InvalidRequest("Invalid `input`: a stream answers one input at a time.", param="input")
    if any(not text.strip() for text in texts):
        raise InvalidRequest("Invalid `input`: expected text.", param="input")
    settings = (body.task_settings or TaskSettings()).model_dump(exclude_none=True)
    return [_chat_request(inference_id, text, settings, stream=stream) for text in texts]


def _chat_request(inference_id: str, text: str, settings: dict[str, Any], *, stream: bool) -> ChatRequest:
    messages = [{"role": "user", "content": text}]
    return ChatRequest.model_validate({"model": inference_id, "messages": messages, "stream": stream, **settings})


def chat_request(inference_id: str, body: ChatCompletionBody) -> ChatRequest:
    """A streamed chat request to an endpoint, with its usage in the last chunk, as Elasticsearch has it."""
    usage = StreamOptions(include_usage=True)
    return body.model_copy(update={"model": inference_id, "stream": True, "stream_options": usage})


def read_timeout(text: str | None) -> float | None:
    """Seconds of a `timeout` parameter such as `30s`; None where there is none, or it says not to limit.

    Raises:
        InvalidRequest: it is not a span.
    """
    if text is None or text in ("-1", "0"):
        return None
    span = _SPAN.match(text)
    if span is None:
        raise InvalidRequest(f"Failed to parse [timeout] with value [{text[:40]}] as a time value.", param="timeout")
    return int(span[1]) * _UNITS[span[2]]


def _piece(chunk: Chunk) -> Iterator[bytes]:
    for choice in chunk["choices"]:
        if text := choice["delta"].get("content"):
            piece: CompletionPiece = {"completion": [{"delta": text}]}
            yield _event("message", piece)


def _chunk(chunk: Chunk) -> Iterator[bytes]:
    yield _event("message", chunk)


def _error(error: ProxyError) -> bytes:
    return _event("error", error_answer(error))


def _event(name: str, value: object) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + json_line(value) + b"\n\n"


COMPLETION_ENCODING = StreamEncoding(_piece, _error, _DONE)
CHAT_ENCODING = StreamEncoding(_chunk, _error, _DONE)
