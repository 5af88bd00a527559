"""JSON values: which kind one is, and when two are the same."""

import json
from typing import Any, Literal

Json = Any
"""A JSON value as Python's parsers give it: dict, list, str, int, float, bool or None."""

Kind = Literal["null", "boolean", "number", "string", "array", "object"]


def kind_of(value: Json) -> Kind:
    """The JSON type of a value; integers are numbers."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list() | tuple():
            return "array"
        case _:
            return "object"


def is_integer(value: Json) -> bool:
    """Whether a number has no fractional part: 1 and 1.0, not True."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def identity(value: Json) -> str:
    """A text that two values share exactly when JSON Schema calls them equal: 1 is 1.0 and not true; the order of keys is nothing.

    Raises:
        RecursionError: the value is nested some hundreds deep.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def same(one: Json, other: Json) -> bool:
    """Whether JSON Schema calls two values equal.

    Raises:
        RecursionError: both are nested some hundreds deep.
    """
    if isinstance(one, dict | list):
        return type(one) is type(other) and len(one) == len(other) and identity(one) == identity(other)
    return bool(one == other) and isinstance(one, bool) is isinstance(other, bool)


def _plain(value: Json) -> Json:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
