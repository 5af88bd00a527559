"""Bytes of a request body → a typed value, or a 4xx that names the field and what was expected."""

import re
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.requests import Request

from proxy.errors import InvalidRequest, RequestTooLarge
from proxy.wire.openai import UNION_TAG

M = TypeVar("M", bound=BaseModel)

# Every escape of a JSON string is matched as a whole, so that `\\ud800` (a backslash and letters) is not taken for a surrogate.
_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: one character
    rb"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\."
)


async def read_body(request: Request, most: int) -> bytes:
    """The whole body.

    Raises:
        RequestTooLarge: it is longer than `most` bytes; refused while reading.
        InvalidRequest: it is compressed.
    """
    if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise InvalidRequest(
            f"The request body has the content encoding {encoding[:40]!r}; expected none.", param="Content-Encoding"
        )
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise RequestTooLarge(f"The request body is larger than {most} bytes.")
    return bytes(body)


def parse_body(model: type[M], body: bytes) -> M:
    """Read a JSON object.

    Raises:
        InvalidRequest: it is not UTF-8, not JSON, or a field is not what it should be; `param` is the first such field's path.
    """
    value = _parse_json(body)
    if not isinstance(value, dict):
        raise InvalidRequest("The request body is not a JSON object.")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        param = _path(fault["loc"])
        raise InvalidRequest(f"Invalid `{param}`: {_what(fault)}.", param=param) from None


def _parse_json(body: bytes) -> object:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The request body is not UTF-8 (byte {error.start}).") from None
    if b"\\u" in body:
        body = _ESCAPES.sub(lambda match: rb"\ufffd" if match["lone"] else match[0], body)
    try:
        return from_json(body.removeprefix(b"\xef\xbb\xbf"), allow_inf_nan=False)
    except ValueError as error:
        if "recursion limit" in str(error):
            raise InvalidRequest("The request body is nested too deeply: it has more than 200 levels.") from None
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from None


def _path(location: Sequence[int | str]) -> str:
    """The place of a fault, as `messages[2].content[0].type`: without the tags that unions put into it."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith(UNION_TAG):
            path += f".{step}"
    return path.removeprefix(".")


def _what(fault: ErrorDetails) -> str:
    match fault["type"]:
        case "missing":
            return "the field is required"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "expected an object"
        case "list_type":
            return "expected a list"
        case "too_short":
            return "expected at least one item"
        case _:
            words = fault["msg"]
            return words.replace("Input should be", "expected").replace("String should have", "expected")
