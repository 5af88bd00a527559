"""The bytes of an OpenAI stream. Source: contract `heroku-chat.md`, section Stream."""

from collections.abc import Iterator

from proxy.api.http.completions import StreamEncoding
from proxy.api.http.json_text import json_line
from proxy.chat.errors import error_answer
from proxy.errors import ProxyError
from proxy.wire.openai import Chunk


def _chunk(chunk: Chunk) -> Iterator[bytes]:
    yield _event(chunk)


def _error(error: ProxyError) -> bytes:
    return _event(error_answer(error))


def _event(value: object) -> bytes:
    return b"data: " + json_line(value) + b"\n\n"


OPENAI_ENCODING = StreamEncoding(_chunk, _error, end=b"event: done\ndata: [DONE]\n\n")
