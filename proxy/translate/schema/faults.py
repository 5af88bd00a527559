"""The one exception inside this room, and how a place in a JSON value is written."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

Place = tuple[str | int, ...]
"""Keys and indexes from the root of a JSON value."""

_PLAIN = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*\Z")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a schema is refused, and where in it."""

    message: str
    place: Place = ()


class SchemaFault(Exception):
    """A schema cannot be compiled. Never leaves this room."""

    def __init__(self, message: str, place: Place = ()) -> None:
        super().__init__(message)
        self.fault = Fault(message, place)


def dotted(root: str, place: Iterable[str | int]) -> str:
    """`dotted("$", ("items", 2, "unit price"))` is `$.items[2]["unit price"]`."""
    return root + "".join(_step(step) for step in place)


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    if _PLAIN.match(step):
        return f".{step}"
    quoted = step.replace("\\", "\\\\").replace('"', '\\"')
    return f'["{quoted}"]'
