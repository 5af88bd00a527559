"""JSON values and what bounds the work on them: types, equality, paths, errors, limits and the work budget of a request."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import orjson

from proxy.errors import SchemaTooComplex

T = TypeVar("T")

Json = Any
"""A JSON value as Python's parsers give it: dict, list, str, int, float, bool or None."""

JsonObject = dict[str, Json]

JsonType = Literal["null", "boolean", "number", "string", "array", "object"]

Path = tuple[str | int, ...]
"""Keys and indexes from the root of a JSON value."""

MAX_INTEGER = 2**63 - 1
"""What JSON writers hold exactly."""

_PLAIN_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*\Z")


_TYPES: dict[type, JsonType] = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string"}


def type_of(value: Json) -> JsonType:
    """The JSON type of a value; integers are numbers."""
    return _TYPES.get(type(value)) or ("array" if isinstance(value, list | tuple) else "object")


def is_integer(value: Json) -> bool:
    """Whether a number has no fractional part: 1 and 1.0, not True."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def identity(value: Json) -> str:
    """A text that two values share exactly when JSON Schema calls them equal: 1 equals 1.0 but not true; the order of keys is ignored.
    Raises RecursionError: the value is nested some hundreds deep.
    """
    if isinstance(value, str):
        return f'"{value}'
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _plain(value: Json) -> Json:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def json_bytes(value: object) -> bytes:
    """A value as compact JSON, halves of characters replaced.
    Raises TypeError or ValueError: it is no JSON value. RecursionError: it is nested too deeply.
    """
    try:
        return orjson.dumps(value)
    except TypeError:  # also for integers beyond 64 bits and halves of characters
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def format_path(root: str, path: Iterable[str | int]) -> str:
    """`format_path("$", ("items", 2, "unit price"))` is `$.items[2]["unit price"]`."""
    for step in path:
        is_plain = isinstance(step, str) and _PLAIN_KEY.match(step)
        root += f".{step}" if is_plain else f"[{json.dumps(step, ensure_ascii=False)}]"
    return root


class SchemaError(Exception):
    """A schema is malformed or over a limit, by a message without a full stop and a path in the schema. Raised and caught inside this
    package: callers see `InvalidRequest`.
    """

    def __init__(self, message: str, path: Path = ()) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


class TooLarge(Exception):
    """Compiling a schema, or evaluating a value, takes more steps or bytes than one attempt may. Caught inside this package."""


@dataclass(frozen=True, slots=True)
class SchemaLimits:
    """Bounds on a schema. One over any of the first four is refused.

    Attributes:
        max_bytes: size of the schema as compact JSON.
        max_depth: levels of JSON nesting in the schema; at most 200.
        max_properties: properties declared in the whole schema.
        max_alternatives: members of one `anyOf`, `oneOf` or `allOf`.
        recursion_depth: how many levels of a recursive definition are written out.
    """

    max_bytes: int = 1_048_576
    max_depth: int = 128
    max_properties: int = 5_000
    max_alternatives: int = 1_000
    recursion_depth: int = 3


def is_heavy(size: int) -> bool:
    """Whether work on `size` bytes of JSON, of all the schemas and values concerned, can hold an event loop for more than 50 ms.

    Callers on an event loop run such work in a worker thread (`asyncio.to_thread`): everything in this package may run there.
    """
    return size > 4_096


@dataclass(slots=True, eq=False)
class Budget:
    """The work that one request may cause, shared by all its schemas, values and retries. May be used from several threads.
    A step takes about 9 µs, so that the default is some 2 s of CPU time.
    """

    left: int = 250_000
    _abandoned: bool = False

    def spend(self, steps: int = 1) -> None:
        """Take steps. Raises SchemaTooComplex: not enough are left, or `abandon` was called."""
        self.left -= steps
        if self.left < 0 or self._abandoned:
            raise SchemaTooComplex(
                "The JSON Schemas of this request are too complex: use fewer tools, or simpler schemas."
            )

    def abandon(self) -> None:
        """Make the work that is under way in another thread end at its next step."""
        self._abandoned = True


class Memo:
    """The steps of one attempt to compile a schema, for which the request's budget pays, and results that are shared within it. They are
    known by the identity of the operands, which are kept, so that their ids stay theirs.
    """

    def __init__(self, steps: int, budget: Budget) -> None:
        self._left = steps
        self._budget = budget
        self._results: dict[tuple[Any, int, int], tuple[Any, Any, Any]] = {}
        self._keys: dict[int, tuple[int, Any]] = {}
        self._numbers: dict[Any, int] = {}

    def spend(self, steps: int = 1) -> None:
        """Take steps. Raises TooLarge: none is left for this attempt. SchemaTooComplex: none is left for this request."""
        self._budget.spend(steps)
        self._left -= steps
        if self._left < 0:
            raise TooLarge

    def apply(self, operation: "Callable[[T, T, Memo], T]", one: T, other: T) -> T:
        """The result of an operation on two values, computed once for each pair of objects."""
        key = (operation, id(one), id(other))
        known = self._results.get(key)
        if known is None:
            self.spend()
            known = self._results[key] = (operation(one, other, self), one, other)
        result: T = known[0]
        return result

    def identities(self, values: tuple[Json, ...]) -> frozenset[str]:
        """The identities of listed values."""
        found = frozenset(map(identity, values))
        self.spend(len(found) // 8 + sum(map(len, found)) // 256)
        return found

    def key(self, value: T, structure: "Callable[[T, Memo], Any]") -> int:
        """A number that two values share exactly when their structures are equal; computed once for each object. `structure` gives a
        value as something hashable, its parts replaced by their own keys.
        """
        known = self._keys.get(id(value))
        if known is None:
            self.spend()
            number = self._numbers.setdefault(structure(value, self), len(self._numbers))
            known = self._keys[id(value)] = (number, value)
        return known[0]
