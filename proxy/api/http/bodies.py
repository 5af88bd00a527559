"""Bytes of a request body → a typed value, or a 4xx that names the field and what was expected. All of it is bounded."""

import asyncio
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from proxy.api.http.json_text import parse_json
from proxy.errors import InvalidRequest, RequestTooLarge
from proxy.settings import ServerSettings

MAX_VALUES: Final = 100_000
"""Default for the most JSON values in a body."""
UNION_TAG: Final = "#"
"""Begins the tags of discriminated unions in models, so that they can be told from the names of fields."""
_LARGE_BYTES: Final = 64 * 1024
"""From this size on a body is parsed and decoded in a thread. The worst of smaller ones takes about 20 ms."""

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, decompressed (`Content-Encoding: gzip` or `deflate`).

    Raises:
        RequestTooLarge: it has more than `limit` bytes, as sent or decompressed; refused while reading.
        InvalidRequest: it is compressed in another way, or not as its header says.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise _undecodable(f"The request body has the content encoding {encoding[:40]!r}; expected gzip or deflate.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    if encoding in ("", "identity"):
        return bytes(body)
    return await asyncio.to_thread(_decompress, bytes(body), encoding, limit)


async def read_model(request: Request, model: type[M], server: ServerSettings) -> M:
    """The body as a model. Raises as `read_object` and `validated`."""
    return await read_object(request, lambda value, _: validated(model, value), server)


async def read_object(request: Request, work: Callable[[dict[str, Any], int], T], server: ServerSettings) -> T:
    """What some pure work makes of the body's JSON object and the body's size in bytes, within the settings' limits.

    Raises:
        RequestTooLarge, InvalidRequest: as `read_body` and `parse_object`.
        ProxyError: of the work.
    """
    body = await read_body(request, server.max_body_bytes)

    def parse() -> T:
        return work(parse_object(body, server.max_body_values), len(body))

    return parse() if len(body) < _LARGE_BYTES else await asyncio.to_thread(parse)


def parse_body(model: type[M], body: bytes, max_values: int = MAX_VALUES) -> M:
    """The JSON object of a body as a model. Raises InvalidRequest as `parse_object` and `validated`."""
    return validated(model, parse_object(body, max_values))


def parse_object(body: bytes, max_values: int = MAX_VALUES) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        InvalidRequest: it is not JSON (see `parse_json`), or not an object.
    """
    value = parse_json(body, max_values=max_values)
    if not isinstance(value, dict):
        raise InvalidRequest("The request body is not a JSON object.")
    return value


def validated(model: type[M], value: Mapping[str, Any]) -> M:
    """A JSON object as a model.

    Raises:
        InvalidRequest: a field is not what it should be; `param` is the first such field's path.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = _path(first["loc"])
        raise InvalidRequest(f"Invalid `{param}`: {_problem(first)}.", param=param) from None


def _decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Never makes more than `limit` bytes, whatever the ratio."""
    # Some clients send deflate data without the zlib header that the standard asks for.
    raw = encoding == "deflate" and body[:1] and body[0] & 0x0F != zlib.DEFLATED
    inflater = zlib.decompressobj(-zlib.MAX_WBITS if raw else zlib.MAX_WBITS | 32)
    try:
        text = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise _undecodable(f"The request body is not valid {encoding} data.") from None
    if len(text) > limit:
        raise _too_large(limit)
    if not inflater.eof or inflater.unused_data:
        raise _undecodable(f"The request body is not one complete {encoding} stream.")
    return text


def _undecodable(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="Content-Encoding")


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is larger than {limit} bytes.")


def _path(location: Sequence[int | str]) -> str:
    """Where an error is, as `messages[2].content[0].type`: without the tags of unions."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith(UNION_TAG):
            path += f".{step}"
    return path.removeprefix(".")


def _problem(error: ErrorDetails) -> str:
    match error["type"]:
        case "missing":
            return "the field is required"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "expected an object"
        case "list_type":
            return "expected a list"
        case "too_short":
            return "expected at least one item"
        case _:
            message = error["msg"]
            return message.replace("Input should be", "expected").replace("String should have", "expected")
