"""JSON as text inside texts: arguments of calls, structured output, and what models write around them."""

import json
import re
from typing import Any

from pydantic_core import from_json

_FENCE = re.compile(r"\A\s*```[\w-]*[ \t]*\r?\n(?P<body>.*?)\r?\n?[ \t]*```\s*\Z", re.DOTALL)


class NotJson(ValueError):
    """The text is not JSON: malformed, nested too deeply, or with numbers that JSON does not have."""


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises NotJson."""
    try:
        value = from_json(text, allow_inf_nan=False)
        dump_json(value)  # 1e999 is a JSON number that overflows to infinity
    except ValueError as error:
        raise NotJson(str(error)) from error
    return value


def parse_loose_json(text: str) -> Any:
    """The value of a JSON text that may stand in a Markdown code fence, as models write it. Raises NotJson."""
    fenced = _FENCE.match(text)
    return parse_json(fenced["body"] if fenced else text)


def dump_json(value: Any) -> str:
    """The compact JSON text of a value, in its own characters and with integers of any size. Raises ValueError for NaN and infinity."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
