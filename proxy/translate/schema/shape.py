"""Shapes: the values that the documented subset of JSON Schema can tell apart.

A schema of that subset says, for each JSON type on its own, which values of the type it takes, or lists the values. A shape holds just
that, so writing one down loses nothing; what is lost on the way from a schema to a shape is always in the direction of more values.

    compile.py   reads a schema as a shape                    merge.py    both of two shapes (allOf)
    render.py    writes a shape as a schema                   unions.py   any of several shapes (anyOf)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from proxy.translate.schema.values import Json, Kind, is_integer, kind_of

KINDS: tuple[Kind, ...] = ("object", "array", "string", "number", "boolean", "null")
ALL_KINDS: frozenset[Kind] = frozenset(KINDS)

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
        kinds: the JSON types among them; without any, no value is taken.
        values: all of them, where they are listed; the four parts below then say nothing.
        strings, numbers, arrays, objects: which of that type.
        options: further shapes of which a value must have one (only where `anyOf` may be written).
        title, description, notes: for the reader; `notes` tell what no keyword says.
        exact: whether the schema it was read from takes no fewer values.
    """

    kinds: frozenset[Kind] = ALL_KINDS
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

    @property
    def empty(self) -> bool:
        """No value is taken."""
        return not self.kinds


ANYTHING = Shape()
NOTHING = Shape(kinds=frozenset())


def listed(values: tuple[Json, ...]) -> Shape:
    """The shape of some given values."""
    return Shape(kinds=frozenset(map(kind_of, values)), values=values)


def of_kinds(*kinds: Kind) -> Shape:
    """All values of some JSON types."""
    return Shape(kinds=frozenset(kinds))


def settled(shape: Shape) -> Shape:
    """The same shape without what cannot be: types of which no value is left, listed values of other types or out of bounds."""
    if shape.values is not None:
        return _listed_within(shape)
    if any(option.empty for option in shape.options):
        shape = replace(shape, options=tuple(option for option in shape.options if not option.empty) or (NOTHING,))
    impossible = [kind for kind in shape.kinds if _impossible(shape, kind)]
    kinds = shape.kinds.difference(impossible)
    if shape.options:
        kinds &= frozenset().union(*(option.kinds for option in shape.options))
    return shape if kinds == shape.kinds else replace(shape, kinds=kinds)


def _impossible(shape: Shape, kind: Kind) -> bool:
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
    """Only the listed values that the parts allow; the parts have then said all they could."""
    values = tuple(value for value in shape.values or () if kind_of(value) in shape.kinds and _may_be(shape, value))
    decided = not shape.options and all(_is_decided(shape, value) for value in values)
    return Shape(
        kinds=frozenset(map(kind_of, values)),
        values=values,
        title=shape.title,
        description=shape.description,
        notes=shape.notes,
        exact=shape.exact and decided,
    )


def _is_decided(shape: Shape, value: Json) -> bool:
    """Whether `_may_be` looks at all that the shape says of such a value."""
    match kind_of(value):
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
