"""JSON as bytes."""

import json
from typing import Any

import orjson


def dumps(value: Any) -> bytes:
    """JSON text, compact. Values that orjson will not write (integers past 64 bits, lone surrogates) go the slow way."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def key_of(value: Any) -> bytes:
    """Equal keys for values that are equal in JSON Schema's sense: `1` and `1.0` are, `1` and `true` are not."""
    return json.dumps(_plain(value), sort_keys=True).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
