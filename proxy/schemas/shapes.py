"""Shapes: the sets of JSON values that the documented keywords can tell apart, and their intersection.

A schema of those keywords says, for each JSON type on its own, which values of the type it accepts, or lists the values. A shape holds just
that, so writing one as a schema loses nothing; what is lost between a schema and its shape is always in the direction of more values.

    read.py    reads a schema as a shape          unions.py   the union of shapes (anyOf, oneOf)
    write.py   writes a shape as a schema         here        the intersection of two shapes (allOf, $ref, keywords beside each other)
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from proxy.schemas.values import Json, JsonType, Memo, identity, is_integer, type_of

TYPES: tuple[JsonType, ...] = ("object", "array", "string", "number", "boolean", "null")
ALL_TYPES: frozenset[JsonType] = frozenset(TYPES)

Bound = tuple[int | float, bool]
"""A number, and whether it is itself excluded."""


@dataclass(frozen=True, slots=True)
class Strings:
    """Which strings. `patterns` are all to be found; lengths are in code points."""

    min_length: int = 0
    max_length: int | None = None
    patterns: tuple[str, ...] = ()
    format: str | None = None


@dataclass(frozen=True, slots=True)
class Numbers:
    """Which numbers."""

    integer: bool = False
    lower: Bound | None = None
    upper: Bound | None = None
    multiple_of: int | float | None = None


@dataclass(frozen=True, slots=True)
class Arrays:
    """Which arrays. `items` None: items of any shape."""

    items: "Shape | None" = None
    min_items: int = 0
    max_items: int | None = None
    unique: bool = False


@dataclass(frozen=True, slots=True)
class Objects:
    """Which objects. `others` is the shape of properties without an own one; None: any shape."""

    properties: Mapping[str, "Shape"] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    others: "Shape | None" = None

    def at(self, name: str) -> "Shape":
        """The shape of the property `name`."""
        return self.properties.get(name, self.others or ANYTHING)


ANY_STRING, ANY_NUMBER, ANY_ARRAY, ANY_OBJECT = Strings(), Numbers(), Arrays(), Objects()


@dataclass(frozen=True, slots=True)
class Shape:
    """A set of JSON values.

    Attributes:
        types: the JSON types among them; without any, no value is accepted.
        values: all of them, where they are listed; the four parts below then say nothing.
        strings, numbers, arrays, objects: which of that type.
        options: further shapes of which a value must have one (only where `anyOf` may be written).
        title, description, notes: for the reader; `notes` say what no keyword says.
        exact: whether the schema it was read from accepts no fewer values.
        open: it accepts anything; its properties only say what is meant.
    """

    types: frozenset[JsonType] = ALL_TYPES
    values: tuple[Json, ...] | None = None
    strings: Strings = ANY_STRING
    numbers: Numbers = ANY_NUMBER
    arrays: Arrays = ANY_ARRAY
    objects: Objects = ANY_OBJECT
    options: tuple["Shape", ...] = ()
    title: str | None = field(default=None, compare=False)
    description: str | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    exact: bool = field(default=True, compare=False)
    open: bool = field(default=False, compare=False)

    @property
    def empty(self) -> bool:
        """No value is accepted."""
        return not self.types


def structure(shape: Shape, memo: Memo) -> object:
    """What makes two shapes the same set of values, as `Memo.key` takes it."""
    values = None if shape.values is None else memo.identities(shape.values)
    options = tuple(memo.key(option, structure) for option in shape.options)
    arrays, objects = memo.key(shape.arrays, structure_of_arrays), memo.key(shape.objects, structure_of_objects)
    return shape.types, values, shape.strings, shape.numbers, arrays, objects, options


def structure_of_arrays(arrays: Arrays, memo: Memo) -> object:
    """The same for the arrays of a shape."""
    items = None if arrays.items is None else memo.key(arrays.items, structure)
    return Arrays, items, arrays.min_items, arrays.max_items, arrays.unique


def structure_of_objects(objects: Objects, memo: Memo) -> object:
    """The same for the objects of a shape."""
    memo.spend(len(objects.properties) // 8)
    properties = frozenset((name, memo.key(member, structure)) for name, member in objects.properties.items())
    others = None if objects.others is None else memo.key(objects.others, structure)
    return Objects, properties, objects.required, others


ANYTHING = Shape()
NOTHING = Shape(types=frozenset())


def of_values(values: Iterable[Json]) -> Shape:
    """The shape of some given values, repeated ones once."""
    distinct = tuple({identity(value): value for value in values}.values())
    return Shape(types=frozenset(map(type_of, distinct)), values=distinct)


def of_types(*kinds: JsonType) -> Shape:
    """All values of some JSON types."""
    return Shape(types=frozenset(kinds))


def normalized(shape: Shape) -> Shape:
    """The same shape without what cannot be: types of which no value is left, listed values of other types or out of bounds."""
    if shape.values is not None:
        return _listed_within(shape)
    if any(option.empty for option in shape.options):
        shape = replace(shape, options=tuple(option for option in shape.options if not option.empty) or (NOTHING,))
    impossible = [kind for kind in shape.types if _impossible(shape, kind)]
    kinds = shape.types.difference(impossible)
    if shape.options:
        kinds &= frozenset().union(*(option.types for option in shape.options))
    return shape if kinds == shape.types else replace(shape, types=kinds)


def _impossible(shape: Shape, kind: JsonType) -> bool:
    match kind:
        case "string":
            return shape.strings.max_length is not None and shape.strings.min_length > shape.strings.max_length
        case "number":
            lower, upper = shape.numbers.lower, shape.numbers.upper
            if lower is None or upper is None:
                return False
            return lower[0] > upper[0] or (lower[0] == upper[0] and (lower[1] or upper[1]))
        case "array":
            most = 0 if shape.arrays.items and shape.arrays.items.empty else shape.arrays.max_items
            return most is not None and shape.arrays.min_items > most
        case "object":
            return any(shape.objects.at(name).empty for name in shape.objects.required)
        case _:
            return False


def _listed_within(shape: Shape) -> Shape:
    """Only the listed values that the parts allow; the parts then say nothing more."""
    values = tuple(value for value in shape.values or () if type_of(value) in shape.types and _may_be(shape, value))
    decided = not shape.options and all(_is_decided(shape, value) for value in values)
    return Shape(
        types=frozenset(map(type_of, values)),
        values=values,
        title=shape.title,
        description=shape.description,
        notes=shape.notes,
        exact=shape.exact and decided,
    )


def _is_decided(shape: Shape, value: Json) -> bool:
    """Whether `_may_be` looks at all that the shape says of such a value."""
    match type_of(value):
        case "string":
            return not shape.strings.patterns and shape.strings.format is None
        case "number":
            return shape.numbers.multiple_of is None
        case "array":
            return shape.arrays == ANY_ARRAY
        case "object":
            return shape.objects == ANY_OBJECT
        case _:
            return True


def _may_be(shape: Shape, value: Json) -> bool:
    """False only for a listed value that the bounds of the shape exclude."""
    if isinstance(value, str):
        most = shape.strings.max_length
        return shape.strings.min_length <= len(value) and (most is None or len(value) <= most)
    if isinstance(value, int | float) and not isinstance(value, bool):
        numbers = shape.numbers
        above = (
            numbers.lower is None or value > numbers.lower[0] or (value == numbers.lower[0] and not numbers.lower[1])
        )
        below = (
            numbers.upper is None or value < numbers.upper[0] or (value == numbers.upper[0] and not numbers.upper[1])
        )
        return above and below and (not numbers.integer or is_integer(value))
    return True


_MAX_LCM = 2**53


def intersect(one: Shape, other: Shape, memo: Memo) -> Shape:
    """The values that both shapes accept. What the first says of itself (title, description, order of properties) comes first."""
    if one is other or other is ANYTHING:
        return one
    if one is ANYTHING:
        return other
    return memo.apply(_intersect, one, other)


def _intersect(one: Shape, other: Shape, memo: Memo) -> Shape:
    numbers, exact = _numbers(one.numbers, other.numbers)
    strings, strings_exact = _strings(one.strings, other.strings)
    return normalized(
        Shape(
            types=one.types & other.types,
            values=_values(one, other, memo),
            strings=strings,
            numbers=numbers,
            arrays=_arrays(one.arrays, other.arrays, memo),
            objects=_objects(one.objects, other.objects, memo),
            options=_options(one.options, other.options, memo),
            title=one.title or other.title,
            description=_texts(one.description, other.description),
            notes=tuple(dict.fromkeys((*one.notes, *other.notes))) if one.notes or other.notes else (),
            exact=one.exact and other.exact and exact and strings_exact,
        )
    )


def _texts(one: str | None, other: str | None) -> str | None:
    if not one or not other or other in one:
        return one or other
    return other if one in other else f"{one}\n{other}"


def _values(one: Shape, other: Shape, memo: Memo) -> tuple[Json, ...] | None:
    if one.values is None or other.values is None:
        return other.values if one.values is None else one.values
    shorter, longer = (one.values, other.values) if len(one.values) <= len(other.values) else (other.values, one.values)
    known = memo.identities(longer)
    memo.identities(shorter)
    return tuple(value for value in shorter if identity(value) in known)


def _strings(one: Strings, other: Strings) -> tuple[Strings, bool]:
    if one is ANY_STRING or other is ANY_STRING:
        return other if one is ANY_STRING else one, True
    return Strings(
        max(one.min_length, other.min_length),
        _least(one.max_length, other.max_length),
        tuple(dict.fromkeys((*one.patterns, *other.patterns))),
        one.format or other.format,
    ), not (one.format and other.format and one.format != other.format)


def _numbers(one: Numbers, other: Numbers) -> tuple[Numbers, bool]:
    if one is ANY_NUMBER or other is ANY_NUMBER:
        return other if one is ANY_NUMBER else one, True
    multiple, exact = _multiple(one.multiple_of, other.multiple_of)
    lower = max(filter(None, (one.lower, other.lower)), default=None)
    upper = min(filter(None, (one.upper, other.upper)), key=_tightest, default=None)
    return Numbers(one.integer or other.integer, lower, upper, multiple), exact


def _tightest(upper: Bound) -> tuple[int | float, bool]:
    return upper[0], not upper[1]


def _multiple(one: int | float | None, other: int | float | None) -> tuple[int | float | None, bool]:
    """A multiple of both, and whether that says it all."""
    if one is None or other is None or one == other:
        return one if other is None else other, True
    if isinstance(one, int) and isinstance(other, int):
        least = math.lcm(one, other)
        return (least, True) if least <= _MAX_LCM else (one, False)
    return one, False


def _arrays(one: Arrays, other: Arrays, memo: Memo) -> Arrays:
    if one is ANY_ARRAY or other is ANY_ARRAY:
        return other if one is ANY_ARRAY else one
    items = _rest(one.items, other.items, memo)
    return Arrays(
        items, max(one.min_items, other.min_items), _least(one.max_items, other.max_items), one.unique or other.unique
    )


def _objects(one: Objects, other: Objects, memo: Memo) -> Objects:
    if one is ANY_OBJECT or other is ANY_OBJECT:
        return other if one is ANY_OBJECT else one
    names = dict.fromkeys((*one.properties, *other.properties))
    memo.spend(len(names) // 8)
    return Objects(
        {name: intersect(one.at(name), other.at(name), memo) for name in names},
        tuple(dict.fromkeys((*one.required, *other.required))),
        _rest(one.others, other.others, memo),
    )


def _rest(one: Shape | None, other: Shape | None, memo: Memo) -> Shape | None:
    if one is None or other is None:
        return other if one is None else one
    return intersect(one, other, memo)


def _options(one: tuple[Shape, ...], other: tuple[Shape, ...], memo: Memo) -> tuple[Shape, ...]:
    """One of the first and one of the second: the second's inside each of the first's."""
    if not one or not other:
        return one or other
    return tuple(intersect(option, Shape(options=other), memo) for option in one)


def _least(one: int | None, other: int | None) -> int | None:
    return min((bound for bound in (one, other) if bound is not None), default=None)


def with_notes(shape: Shape, notes: Iterable[str], *, exact: bool = False) -> Shape:
    """The shape, and words for what it does not say."""
    added = tuple(note for note in notes if note)
    return replace(
        shape, notes=tuple(dict.fromkeys((*shape.notes, *added))), exact=shape.exact and (exact or not added)
    )
