"""Inference calls → neutral requests; events → server-sent events. No I/O. Source: contract `elastic-inference.md`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from proxy.api.elastic.errors import error_out
from proxy.api.elastic.types import CompletionBody, TaskSettings
from proxy.api.http.json_text import canonical_digest, json_line
from proxy.errors import InvalidRequest, ProxyError
from proxy.inference.request import Message, Request, Sampling, Text
from proxy.inference.result import Event, TextDelta

_SPAN: Final = re.compile(r"\A(\d{1,9})(ms|s|m|h|d)\Z")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def completion_requests(inference_id: str, body: CompletionBody, *, stream: bool) -> list[Request]:
    """One request for each input.

    Raises:
        InvalidRequest: an input is blank, or there are several for one stream.
    """
    texts = [body.input] if isinstance(body.input, str) else body.input
    if stream and len(texts) > 1:
        raise InvalidRequest("Invalid `input`: a stream answers one input at a time.", param="input")
    if any(not text.strip() for text in texts):
        raise InvalidRequest("Invalid `input`: expected text.", param="input")
    settings = body.task_settings or TaskSettings()
    sampling = Sampling(
        temperature=None if settings.temperature is None else min(settings.temperature, 1.0),
        top_p=settings.top_p,
        top_k=settings.top_k or None,
    )
    lowered = settings.temperature is not None and settings.temperature > 1
    return [
        Request(
            model=inference_id,
            messages=(Message("user", (Text(text, "input"),), "input"),),
            sampling=sampling,
            max_tokens=settings.max_tokens,
            body_bytes=len(text.encode()),
            adjusted=("temperature: lowered to 1",) if lowered else (),
        )
        for text in texts
    ]


def completion_digest(request: Request) -> str:
    """Equal for completions that ask for the same."""
    sampling = request.sampling
    texts = [block.text for message in request.messages for block in message.content if isinstance(block, Text)]
    settings = [request.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k]
    return canonical_digest(["completion", request.model, texts, settings])


def timeout_seconds(text: str | None) -> float:
    """Seconds of a `timeout` parameter such as `30s`; infinity where there is none, or it says not to limit.

    Raises:
        InvalidRequest: it is not a span of time.
    """
    if text is None or text in ("-1", "0"):
        return float("inf")
    span = _SPAN.match(text)
    if span is None:
        raise InvalidRequest(f"Failed to parse [timeout] with value [{text[:40]}] as a time value.", param="timeout")
    return int(span[1]) * _UNITS[span[2]]


class CompletionEncoder:
    """The bytes of a streamed completion; see `proxy.api.http.runs.StreamEncoder`."""

    end = b"event: message\ndata: [DONE]\n\n"

    def encode(self, event: Event) -> Iterator[bytes]:
        if isinstance(event, TextDelta):
            yield _event("message", {"completion": [{"delta": event.text}]})

    def heartbeat(self) -> bytes:
        return b""

    def error(self, error: ProxyError) -> bytes:
        return _event("error", error_out(error))


class Chunks(Protocol):
    """The chunks of one stream, as JSON objects."""

    def chunks(self, event: Event) -> Iterator[Mapping[str, Any]]:
        """Those of an event."""

    def heartbeat(self) -> Mapping[str, Any] | None:
        """One without content; None before the first chunk."""


class ChatEncoder(CompletionEncoder):
    """The bytes of a streamed chat completion."""

    def __init__(self, chunks: Chunks) -> None:
        self._stream = chunks

    def encode(self, event: Event) -> Iterator[bytes]:
        for chunk in self._stream.chunks(event):
            yield _event("message", chunk)

    def heartbeat(self) -> bytes:
        chunk = self._stream.heartbeat()
        return _event("message", chunk) if chunk else b""


def _event(name: str, value: object) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + json_line(value) + b"\n\n"
