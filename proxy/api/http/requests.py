"""What is read of an HTTP request: bytes of its body → a typed value, or a 4xx that names the field; and what its query and headers say.

All of it is bounded. Large bodies are read in a thread, so that other requests go on.
"""

import asyncio
import hashlib
import json
import math
import re
import zlib
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, TypeVar, get_args

import orjson
from pydantic import BaseModel, BeforeValidator, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema, from_json
from starlette.requests import Request

from proxy.access.authentication import Authenticator, Caller, presented_keys
from proxy.catalog import Catalog, ModelCard
from proxy.errors import InvalidRequest, RequestTooLarge, redact
from proxy.inference.endpoints import Endpoint, Endpoints, find_model
from proxy.inference.idempotency import Idempotency, Terms
from proxy.inference.request import JsonObject, Rules
from proxy.settings import ServerSettings, Settings

UNION_TAG: Final = "#"
"""Begins the tags of unions in models, so that they can be distinguished from the names of fields."""
REPORTABLE: Final = re.compile(r"\A[A-Za-z0-9_.-]{1,64}\Z")
"""Names from a request that may be repeated in a response header."""
MAX_REPORTED: Final = 50
"""Ignored fields, and adjustments, that are reported of one request."""
_PROBLEMS: Final = {
    "missing": "the field is required",
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "expected an object"),
    "list_type": "expected a list",
    "too_short": "expected at least one item",
}
"""What pydantic's errors mean to who does not know it, by their type."""
LARGE_BYTES: Final = 64 * 1024
"""From this size on a body is parsed and decoded in a thread. The worst of smaller ones takes about 20 ms."""
_MAX_KEY_LENGTH: Final = 255
_HOW_IT_IS_SENT: Final = ("stream", "stream_options")
_SLICE: Final = 64 * 1024
_SHORTEST_HEARTBEAT_S: Final = 0.25

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class ApiServices:
    """What the routes of every API work with: opened by the app's lifespan, the same for every request; `request.state.api`."""

    settings: Settings
    rules: Rules
    catalog: Catalog
    authenticator: Authenticator
    endpoints: Endpoints
    backend: Idempotency

    async def find(self, model: str, caller: Caller) -> ModelCard | Endpoint:
        """What a model's name means to a caller. Raises ModelNotFound, PermissionDenied."""
        found = await find_model(model, caller, self.catalog, self.endpoints)
        return found if isinstance(found, Endpoint) else found.card


async def enter(request: Request) -> tuple[ApiServices, Caller]:
    """The services, and the caller. Raises ProxyError: its key is wrong."""
    services: ApiServices = request.state.api
    return services, await services.authenticator.authenticate(request.headers)


# ---------------------------------------------------------------- types of fields

FastList = Annotated[list[T], Field(fail_fast=True)]
"""A list of which the first error is enough, and cheaper than all."""


def _whole(value: Any) -> Any:
    """`10.0` is an integer to JSON, and some clients' languages write it so."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


Whole = Annotated[int, BeforeValidator(_whole)]


class TaggedBy:
    """Annotation of a union of models: an object is read as the model whose `Literal` holds the value of one field, else as the last model.

    What is no object is read as the member that is no model, if there is one. (A discriminator of pydantic's own would refuse values that
    no model names, which is for decoding to judge, and validate a long list in one call that lets no other thread run.)
    """

    def __init__(self, field: str) -> None:
        self._field = field

    def __get_pydantic_core_schema__(self, union: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        field, default, other = self._field, "", ""
        choices: dict[Hashable, CoreSchema] = {}
        tags: dict[str, str] = {}
        for number, member in enumerate(get_args(union)):
            tag = f"{UNION_TAG}{number}"
            choices[tag] = handler.generate_schema(member)
            if isinstance(member, type) and issubclass(member, BaseModel):
                default = tag
                if field in member.model_fields:
                    tags = dict.fromkeys(get_args(member.model_fields[field].annotation), tag) | tags
            else:
                other = tag

        def _tag(value: Any) -> str:
            if not isinstance(value, dict):
                return other or default
            name = value.get(field)
            return tags.get(name, default) if isinstance(name, str) else default

        return core_schema.tagged_union_schema(choices, _tag)


# ---------------------------------------------------------------- bodies


async def computed(size: int, work: Callable[[], T]) -> T:
    """What some work on that many bytes returns, done in a worker thread where they are many."""
    return await asyncio.to_thread(work) if size >= LARGE_BYTES else work()


async def read_object(request: Request, work: Callable[[JsonObject, int], T]) -> T:
    """What some pure work makes of `read_body`, in a thread where that is large. Raises ProxyError: as of both."""
    value, size = await read_body(request)
    return await computed(size, partial(work, value, size))


async def read_request(request: Request, find: Callable[[str], Awaitable[F]]) -> tuple[JsonObject, int, F | None]:
    """As `read_body`; and what `find` makes of its model's name, None where it has none. Raises ProxyError: as of both.

    An unknown model is thus refused before the body is decoded.
    """
    body, size = await read_body(request)
    name = body.get("model")
    if not name or not isinstance(name, str):
        return body, size, None
    found = await find(name)
    if request.state.api.catalog.default is not None and not isinstance(found, Endpoint):
        # An unknown name, which is served by the default model and echoed, could be a key.
        body["model"] = redact(name, presented_keys(request.headers))
    return body, size, found


async def read_body(request: Request) -> tuple[JsonObject, int]:
    """The body's JSON object and the body's size in bytes, within the settings' limits.

    The body may be compressed (`Content-Encoding: gzip` or `deflate`). What is large is parsed in a thread.

    Raises:
        RequestTooLarge: it has more than `max_body_bytes`, as sent or decompressed; refused while reading.
        InvalidRequest: it is compressed in another way, or not as its header says, or as of `parse_object`.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower() or "identity"
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise _undecodable(f"The request body has the content encoding {encoding[:40]!r}; expected gzip or deflate.")
    server: ServerSettings = request.state.api.settings.server
    limit, received = server.max_body_bytes, bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > limit:
            raise _too_large(limit)
    body = bytes(received)
    if encoding != "identity":
        body = await asyncio.to_thread(_decompress, body, encoding, limit)
    return await computed(len(body), partial(parse_object, body, server.max_body_values)), len(body)


def parse_object(body: bytes, max_values: int = 100_000) -> dict[str, Any]:
    """The JSON object of a body. Half of a surrogate pair, which some clients escape, becomes U+FFFD.

    Raises:
        InvalidRequest: it is not UTF-8, not JSON, not an object, nested more than 200 levels deep, or has more values than `max_values`.
    """
    # The usual case: not even with the signs inside strings are there so many.
    if body.count(b",") + body.count(b"[") + body.count(b"{") > max_values and has_more_values(body, max_values):
        raise InvalidRequest(f"The request body has more than {max_values} JSON values (`server.max_body_values`).")
    try:
        value = from_json(body.removeprefix(b"\xef\xbb\xbf"), allow_inf_nan=False)
    except ValueError as error:
        message = str(error)
        if "surrogate" not in message and "hex escape" not in message:
            raise _not_json(body, message) from None
        return parse_object(_without_lone_surrogates(body), max_values)
    if not isinstance(value, dict):
        raise InvalidRequest("The request body is not a JSON object.")
    return value


def validated(model: type[M], value: Mapping[str, Any]) -> M:
    """A JSON object as a model. Raises InvalidRequest: a field is not what it should be; `param` is the first such field's path."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        first = errors[0]
        if str(first["loc"][-1]).startswith(UNION_TAG):
            # Of the errors of the members of one union the one that got furthest, as of the member that was meant.
            union = first["loc"][:-1]
            members = [each for each in errors if each["loc"][: len(union)] == union]
            first = max(members, key=lambda each: len(each["loc"]))
        # Where it is, as `messages[2].content[0].type`: without the tags of unions.
        steps = [step for step in first["loc"] if isinstance(step, int) or not step.startswith(UNION_TAG)]
        param = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")
        message = first["msg"].replace("Input should be", "expected").replace("String should have", "expected")
        raise InvalidRequest(f"Invalid `{param}`: {_PROBLEMS.get(first['type'], message)}.", param=param) from None


def has_more_values(body: bytes, limit: int) -> bool:
    """Whether some JSON text has more values than a limit, give or take one for each list and object, found without parsing it.

    Counts the commas and opening brackets outside of strings, in some milliseconds for megabytes.
    """
    body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if body.count(b'"') > 4 * limit:  # a value has at most two strings, itself and its name
        return True
    outside = b"".join(body.split(b'"')[::2])
    return outside.count(b",") + outside.count(b"[") + outside.count(b"{") > limit


def reportable(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names of ignored fields that are reported."""
    return tuple(filter(REPORTABLE.match, names))[:MAX_REPORTED]


def canonical_digest(value: object) -> str:
    """64 hexadecimal digits that are equal for equal JSON values, whatever the order of their object members."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # integers of more than 64 bits
        text = json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()


def request_digest(body: JsonObject) -> str:
    """Equal for request bodies that ask for the same answer: without how it is sent, and without null fields, those of messages too."""
    asked = body.copy()
    for name, value in body.items():
        if value is None or name in _HOW_IT_IS_SENT:
            del asked[name]
    if isinstance(messages := asked.get("messages"), list):
        asked["messages"] = messages = messages.copy()
        for index, message in enumerate(messages):
            if isinstance(message, dict) and None in message.values():
                messages[index] = {name: value for name, value in message.items() if value is not None}
    return canonical_digest(asked)


def _without_lone_surrogates(body: bytes) -> bytes:
    try:
        text = json.dumps(json.loads(body), ensure_ascii=False)
    except RecursionError:
        raise _not_json(body, "recursion limit exceeded") from None
    except ValueError as error:
        raise _not_json(body, str(error)) from None
    # In slices: each call holds up every thread, and takes a tenth of a microsecond for each half.
    slices = (text[start : start + _SLICE] for start in range(0, len(text), _SLICE))
    return "".join(each.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for each in slices).encode()


def _not_json(body: bytes, message: str) -> InvalidRequest:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return InvalidRequest(f"The request body is not UTF-8 (byte {error.start}).")
    if "recursion limit" in message:
        return InvalidRequest("The request body is nested too deeply: it has more than 200 levels.")
    return InvalidRequest(f"The request body is not valid JSON: {message}.")


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


# ---------------------------------------------------------------- queries and headers


def query_number(request: Request, name: str, default: int, most: int, least: int = 1) -> int:
    """A number of the query, or the default, which need not lie in its range. Raises InvalidRequest."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isdecimal() and text.isascii() and len(text) < 11 and least <= int(text) <= most):
        raise InvalidRequest(f"Invalid `{name}`: expected a number from {least} to {most}.", param=name)
    return int(text)


def page_of(
    request: Request, items: Sequence[JsonObject], default: int, most: int, names: Sequence[str] = ("after",)
) -> JsonObject:
    """A page of a list: as many of its objects as the query's `limit` says, which follow the one whose id the query has under the first
    name, or precede the one under the second. Raises InvalidRequest."""
    limit, query = query_number(request, "limit", default, most), request.query_params
    given = [name for name in names if query.get(name)]
    if len(given) > 1:
        raise InvalidRequest(f"Invalid `{given[1]}`: expected only one of it and `{given[0]}`.", param=given[1])
    for name in given:
        index = next((index for index, item in enumerate(items) if item["id"] == query[name]), None)
        if index is None:
            raise InvalidRequest(f"Invalid `{name}`: there is no such item.", param=name)
        items = items[index + 1 :] if name == names[0] else items[:index]
    page = items[:limit] if not given or given[0] == names[0] else items[-limit:]
    ids = [item["id"] for item in page] or [None]
    return {"data": page, "has_more": len(page) < len(items), "first_id": ids[0], "last_id": ids[-1]}


def credentials_digest(headers: Mapping[str, str]) -> str:
    """Tells clients apart by the key they present, in whatever header, and reveals nothing of it: 64 hexadecimal digits."""
    return hashlib.sha256("\0".join(presented_keys(headers)[:1]).encode()).hexdigest()


def terms_of(headers: Mapping[str, str], heartbeat_s: float) -> tuple[Terms, float]:
    """What a request's headers (names in lower case) say of how it is to be handled, and the seconds between heartbeats.

    The SDKs' timeouts end when the first byte, or the next one, arrives: heartbeats come at half of them if the setting is not sooner
    anyway, and a response with heartbeats is not bound by them.

    Args:
        heartbeat_s: the setting; 0 where the response has no heartbeats.

    Raises:
        InvalidRequest: the idempotency key cannot be used as one.
    """
    key = headers.get("idempotency-key", "").strip() or None
    if key is not None and len(key) > _MAX_KEY_LENGTH:
        message = f"The idempotency key is longer than {_MAX_KEY_LENGTH} characters."
        raise InvalidRequest(message, param="Idempotency-Key")
    silence = overall = math.inf
    for name in ("x-stainless-read-timeout", "x-stainless-timeout"):
        if name in headers:
            silence = min(silence, _seconds(headers[name]))
    if "x-request-timeout" in headers:
        overall = _seconds(headers["x-request-timeout"])
    heartbeat_s = min(heartbeat_s, max(silence / 2, _SHORTEST_HEARTBEAT_S))
    if not 0 < heartbeat_s < silence:
        overall = min(overall, silence)
    retries = headers.get("x-stainless-retry-count", "")
    is_retry = retries.isdecimal() and int(retries[:9]) >= 1
    return Terms(client=credentials_digest(headers), key=key, is_retry=is_retry, timeout_s=overall), heartbeat_s


def _seconds(text: str) -> float:
    """A timeout; infinity where it is not a positive number."""
    try:
        seconds = float(text.strip().removesuffix("s"))
    except ValueError:
        return math.inf
    return seconds if seconds > 0 else math.inf
