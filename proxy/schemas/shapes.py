"""Shapes: the sets of JSON values that the documented keywords can tell apart, and their intersection.

A schema of those keywords says, for each JSON type on its own, which values of the type it accepts, or lists the values. A shape holds just
that, so writing one as a schema loses nothing; what is lost between a schema and its shape is always in the direction of more values.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import and_
from typing import Any

from proxy.schemas.values import Json, JsonType, Memo, identity, is_integer, type_of

TYPES: tuple[JsonType, ...] = ("object", "array", "string", "number", "boolean", "null")
ALL_TYPES: frozenset[JsonType] = frozenset(TYPES)


Bounds = Mapping[str, Any]
"""What is required of strings, numbers and arrays beside their type, by keyword. As in a schema, except:

    minimum     (the number, whether it is itself excluded)
    maximum     (the number, whether it is itself allowed); so a number n fits where minimum <= (n, False) and (n, True) <= maximum
    pattern     the patterns that are all to be found
    integer     True

Bounds that say nothing (`minLength: 0`) are left out.
"""

_MAX_LCM = 2**53
_LOWEST, _HIGHEST = (-math.inf, False), (math.inf, True)


def _multiple(one: int | float, other: int | float) -> int | float:
    """The least common multiple of integers, else one of the two."""
    if one != other and isinstance(one, int) and isinstance(other, int) and math.lcm(one, other) <= _MAX_LCM:
        return math.lcm(one, other)
    return one


def _divisor(one: int | float, other: int | float) -> int | float | None:
    """The one of two that divides the other."""
    if one != other and isinstance(one, int) and isinstance(other, int):
        return other if one % other == 0 else one if other % one == 0 else None
    return one if one == other else None


BOUNDS: Mapping[str, tuple[JsonType, Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "minLength": ("string", max, min),
    "maxLength": ("string", min, max),
    "pattern": (
        "string",
        lambda one, other: tuple(dict.fromkeys((*one, *other))),
        lambda one, other: tuple(source for source in one if source in other) or None,
    ),
    "format": ("string", lambda one, _: one, lambda one, other: one if one == other else None),
    "integer": ("number", and_, and_),
    "minimum": ("number", max, min),
    "maximum": ("number", min, max),
    "multipleOf": ("number", _multiple, _divisor),
    "minItems": ("array", max, min),
    "maxItems": ("array", min, max),
    "uniqueItems": ("array", and_, and_),
}
"""Bound → the type it is about, what two of them mean together, and what is left where one of them holds (None: nothing)."""


@dataclass(frozen=True, slots=True)
class Objects:
    """Which objects. `others` is the shape of properties without an own one; None: any shape."""

    properties: Mapping[str, "Shape"] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    others: "Shape | None" = None

    def at(self, name: str) -> "Shape":
        """The shape of the property `name`."""
        return self.properties.get(name, self.others or ANYTHING)


ANY_OBJECT = Objects()


@dataclass(frozen=True, slots=True)
class Shape:
    """A set of JSON values.

    Attributes:
        types: the JSON types among them; without any, no value is accepted.
        values: all of them, where they are listed; `bounds`, `items` and `objects` then say nothing.
        bounds: which strings, numbers and arrays.
        items: the shape of the items of arrays; None: any.
        objects: which objects.
        options: further shapes of which a value must have one (only where `anyOf` may be written).
        title, description, notes: for the reader; `notes` say what no keyword says.
        open: it accepts anything; its properties only say what is meant.
    """

    types: frozenset[JsonType] = ALL_TYPES
    values: tuple[Json, ...] | None = None
    bounds: Bounds = field(default_factory=dict)
    items: "Shape | None" = None
    objects: Objects = ANY_OBJECT
    options: tuple["Shape", ...] = ()
    title: str | None = field(default=None, compare=False)
    description: str | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    open: bool = field(default=False, compare=False)

    @property
    def empty(self) -> bool:
        """No value is accepted."""
        return not self.types


def structure(part: Shape | Objects | None, memo: Memo) -> object:
    """What makes two shapes, or the objects of two, the same set of values, as `Memo.key` takes it."""
    match part:
        case Shape():
            values = None if part.values is None else memo.identities(part.values)
            parts = [memo.key(inner, structure) for inner in (part.items, part.objects, *part.options)]
            return part.types, values, frozenset(part.bounds.items()), tuple(parts)
        case Objects():
            memo.spend(len(part.properties) // 8)
            properties = frozenset((name, memo.key(member, structure)) for name, member in part.properties.items())
            return Objects, properties, part.required, memo.key(part.others, structure)
        case _:
            return None


ANYTHING = Shape()
NOTHING = Shape(types=frozenset())


def of_values(values: Iterable[Json]) -> Shape:
    """The shape of some given values, repeated ones once."""
    distinct = tuple({identity(value): value for value in values}.values())
    return Shape(types=frozenset(map(type_of, distinct)), values=distinct)


def normalized(shape: Shape) -> Shape:
    """The same shape without what cannot be: types of which no value is left, listed values of other types or out of bounds."""
    if shape.values is not None:  # the parts say nothing more
        values = tuple(value for value in shape.values if type_of(value) in shape.types and _may_be(shape, value))
        kinds = frozenset(map(type_of, values))
        return replace(shape, types=kinds, values=values, bounds={}, items=None, objects=ANY_OBJECT, options=())
    if any(option.empty for option in shape.options):
        shape = replace(shape, options=tuple(option for option in shape.options if not option.empty) or (NOTHING,))
    impossible = [kind for kind in shape.types if _impossible(shape, kind)]
    kinds = shape.types.difference(impossible)
    if shape.options:
        kinds &= frozenset().union(*(option.types for option in shape.options))
    return shape if kinds == shape.types else replace(shape, types=kinds)


def _impossible(shape: Shape, kind: JsonType) -> bool:
    bounds = shape.bounds
    match kind:
        case "string":
            return "maxLength" in bounds and bounds.get("minLength", 0) > bounds["maxLength"]
        case "number":
            return bool(bounds.get("minimum", _LOWEST) >= bounds.get("maximum", _HIGHEST))
        case "array":
            most = 0 if shape.items and shape.items.empty else bounds.get("maxItems")
            return most is not None and bounds.get("minItems", 0) > most
        case "object":
            return any(shape.objects.at(name).empty for name in shape.objects.required)
        case _:
            return False


def _may_be(shape: Shape, value: Json) -> bool:
    """False only for a listed value that the bounds of the shape exclude."""
    bounds = shape.bounds
    if isinstance(value, str):
        return bool(bounds.get("minLength", 0) <= len(value) <= bounds.get("maxLength", math.inf))
    if isinstance(value, int | float) and not isinstance(value, bool):
        within = bounds.get("minimum", _LOWEST) <= (value, False) and (value, True) <= bounds.get("maximum", _HIGHEST)
        return within and ("integer" not in bounds or is_integer(value))
    return True


def intersect(one: Shape, other: Shape, memo: Memo) -> Shape:
    """The values that both shapes accept. What the first says of itself (title, description, order of properties) comes first."""
    if one is other or other is ANYTHING:
        return one
    if one is ANYTHING:
        return other
    return memo.apply(_intersect, one, other)


def _intersect(one: Shape, other: Shape, memo: Memo) -> Shape:
    values = other.values if one.values is None else one.values
    if one.values is not None and other.values is not None:
        shorter, longer = sorted((one.values, other.values), key=len)
        known = memo.identities(longer)
        memo.identities(shorter)
        values = tuple(value for value in shorter if identity(value) in known)
    bounds = {**one.bounds, **other.bounds}
    for keyword in one.bounds.keys() & other.bounds.keys():
        bounds[keyword] = BOUNDS[keyword][1](one.bounds[keyword], other.bounds[keyword])
    options = one.options or other.options
    if one.options and other.options:  # one of the first and one of the second: the second's inside each of the first's
        options = tuple(intersect(option, Shape(options=other.options), memo) for option in one.options)
    return normalized(
        Shape(
            types=one.types & other.types,
            values=values,
            bounds=bounds,
            items=_both(one.items, other.items, memo),
            objects=_objects(one.objects, other.objects, memo),
            options=options,
            title=one.title or other.title,
            description=_texts(one.description, other.description),
            notes=tuple(dict.fromkeys((*one.notes, *other.notes))) if one.notes or other.notes else (),
        )
    )


def _texts(one: str | None, other: str | None) -> str | None:
    if not one or not other or other in one:
        return one or other
    return other if one in other else f"{one}\n{other}"


def _objects(one: Objects, other: Objects, memo: Memo) -> Objects:
    if one is ANY_OBJECT or other is ANY_OBJECT:
        return other if one is ANY_OBJECT else one
    names = dict.fromkeys((*one.properties, *other.properties))
    memo.spend(len(names) // 8)
    return Objects(
        {name: intersect(one.at(name), other.at(name), memo) for name in names},
        tuple(dict.fromkeys((*one.required, *other.required))),
        _both(one.others, other.others, memo),
    )


def _both(one: Shape | None, other: Shape | None, memo: Memo) -> Shape | None:
    if one is None or other is None:
        return other if one is None else one
    return intersect(one, other, memo)


def with_note(shape: Shape, note: str) -> Shape:
    """The shape, and words for what it does not say."""
    return replace(shape, notes=tuple(dict.fromkeys((*shape.notes, note))))
