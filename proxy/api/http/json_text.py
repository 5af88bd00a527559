"""JSON in and out: bounded and tolerant parsing of request bodies, compact bytes of responses, digests of equal values."""

import hashlib
import json

import orjson
from pydantic_core import from_json

from proxy.errors import InvalidRequest

# Raw, these are line breaks to clients that read server-sent events line by line with Unicode rules.
_LINE_BREAKS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


def json_bytes(value: object) -> bytes:
    """The compact JSON of a response. Text, numbers, lists, dicts and null only; integers within 64 bits."""
    return orjson.dumps(value)


def json_line(value: object) -> bytes:
    """The same, safe as one line to every reader: no character in it ends a line."""
    line = json_bytes(value)
    for raw, escaped in _LINE_BREAKS:
        line = line.replace(raw, escaped)
    return line


def canonical_digest(value: object) -> str:
    """64 hexadecimal digits that are equal for equal JSON values, whatever the order of their object members."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # integers of more than 64 bits
        text = json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()


def has_more_values(body: bytes, limit: int) -> bool:
    """Whether some JSON text has more values than a limit, give or take one for each list and object, found without parsing it.

    Counts the commas and opening brackets outside of strings, in some milliseconds for megabytes.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") <= limit:
        return False  # the usual case: not even with those inside strings
    body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if body.count(b'"') > 4 * limit:  # a value has at most two strings, itself and its name
        return True
    outside = b"".join(body.split(b'"')[::2])
    return outside.count(b",") + outside.count(b"[") + outside.count(b"{") > limit


def parse_json(body: bytes, *, max_values: int) -> object:
    """The value of a request body. Half of a surrogate pair, which some clients escape, becomes U+FFFD.

    Raises:
        InvalidRequest: it is not UTF-8, not JSON, nested more than 200 levels deep, or has more values than `max_values`.
    """
    if has_more_values(body, max_values):
        raise InvalidRequest(f"The request body has more than {max_values} JSON values (`server.max_body_values`).")
    try:
        return from_json(body.removeprefix(b"\xef\xbb\xbf"), allow_inf_nan=False)
    except ValueError as error:
        message = str(error)
    if "surrogate" in message or "hex escape" in message:
        return parse_json(_without_lone_surrogates(body), max_values=max_values)
    raise _not_json(body, message)


def _without_lone_surrogates(body: bytes) -> bytes:
    try:
        text = json.dumps(json.loads(body), ensure_ascii=False)
    except RecursionError:
        raise _not_json(body, "recursion limit exceeded") from None
    except ValueError as error:
        raise _not_json(body, str(error)) from None
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _not_json(body: bytes, message: str) -> InvalidRequest:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return InvalidRequest(f"The request body is not UTF-8 (byte {error.start}).")
    if "recursion limit" in message:
        return InvalidRequest("The request body is nested too deeply: it has more than 200 levels.")
    return InvalidRequest(f"The request body is not valid JSON: {message}.")
