"""Answers → JSON bytes."""

import orjson

# Raw, these are line breaks to clients that read server-sent events line by line with Unicode rules.
_LINE_BREAKS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


def json_bytes(value: object) -> bytes:
    """The compact JSON of an answer. Text, numbers, lists, dicts and null only; integers within 64 bits."""
    return orjson.dumps(value)


def json_line(value: object) -> bytes:
    """The same, safe as one line to every reader: no character in it ends a line."""
    line = json_bytes(value)
    for raw, escaped in _LINE_BREAKS:
        line = line.replace(raw, escaped)
    return line
