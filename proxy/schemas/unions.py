"""The union of several shapes: what `anyOf` and `oneOf` mean.

The documented keywords have no union, so the shapes become one that accepts all their values and as few others as possible:

    scalars             a list of types, or one list of values
    null and another    the other, and null: `type: [X, "null"]`
    objects             all properties of all; required where all require it; a property is the union of what each says of it,
                        so that a discriminator becomes a list of values
    others              type by type
"""

from collections.abc import Sequence
from dataclasses import replace

from proxy.schemas.describe import alternatives, describe
from proxy.schemas.shapes import (
    ANYTHING,
    NOTHING,
    Arrays,
    Numbers,
    Objects,
    Shape,
    Strings,
    intersect,
    normalized,
    of_values,
)
from proxy.schemas.values import Json, JsonType, Memo, identity, is_integer, type_of

_MAX_HINT = 120


def union(shapes: Sequence[Shape], memo: Memo, *, keep: bool = False) -> Shape:
    """The values that at least one of the shapes takes.

    Args:
        shapes: the alternatives.
        memo: steps left.
        keep: leave the alternatives as they are where one shape does not say the same, to be written as `anyOf`.
    """
    alive = [shape for shape in shapes if not shape.empty]
    if not alive:
        return NOTHING
    union = _joined(alive, memo)
    exact = _says_no_more(union, alive)
    speaking = [shape for shape in alive if shape.types != {"null"}]
    if len(speaking) <= 1:
        return replace(_annotated(union, speaking or alive), exact=exact and all(shape.exact for shape in alive))
    if keep and not exact:
        return Shape(types=union.types, options=tuple(alive), exact=all(shape.exact for shape in alive))
    silent = (
        exact
        and not any(shape.description or shape.title or shape.notes for shape in speaking)
        and not _forgets(union, alive)
    )
    notes = () if silent else (f"One of: {alternatives(alive)}.",)
    return replace(
        union, title=None, description=None, notes=notes, exact=exact and all(shape.exact for shape in alive)
    )


def _joined(shapes: Sequence[Shape], memo: Memo) -> Shape:
    """Halves first: each of many alternatives is then copied a few times, not once for each that follows."""
    if len(shapes) == 1:
        return shapes[0]
    middle = len(shapes) // 2
    return unite(_joined(shapes[:middle], memo), _joined(shapes[middle:], memo), memo)


def _forgets(union: Shape, shapes: Sequence[Shape]) -> bool:
    """Whether some listed values are no longer listed."""
    return union.values is None and any(shape.values is not None and shape.values != (None,) for shape in shapes)


def disjoint(shapes: Sequence[Shape]) -> bool:
    """Whether no two of the shapes take the same value, as far as types and listed values tell."""
    kinds: set[JsonType] = set()
    values: set[str] = set()
    for shape in shapes:
        if shape.values is None:
            if kinds & shape.types:
                return False
            kinds |= shape.types
        marks = set(map(identity, shape.values or ()))
        if marks & values:
            return False
        values |= marks
    return not any(shape.values is not None and shape.types & kinds for shape in shapes)


def without_options(shape: Shape, memo: Memo) -> Shape:
    """The shape without options: their union is part of it."""
    return intersect(replace(shape, options=()), union(shape.options, memo), memo) if shape.options else shape


def unite(one: Shape, other: Shape, memo: Memo) -> Shape:
    """The values that one of two shapes takes, and as few others as a shape can be without."""
    if one is other or other.empty:
        return one
    if one.empty:
        return other
    return memo.apply(_unite, one, other)


def _unite(one: Shape, other: Shape, memo: Memo) -> Shape:
    if ANYTHING in (one, other):
        return replace(_annotated(ANYTHING, (one, other)), notes=_hints(one, other), exact=one.exact and other.exact)
    one, other = without_options(one, memo), without_options(other, memo)
    one, other = _as_list_beside(one, other), _as_list_beside(other, one)
    if one.values is not None and other.values is not None:
        values = {identity(value): value for value in (*one.values, *other.values)}
        union = of_values(tuple(values.values()))
    else:
        union = _by_kind(_as_types(one), _as_types(other), memo)
    return replace(_annotated(union, (one, other)), exact=one.exact and other.exact)


def _annotated(shape: Shape, sources: Sequence[Shape]) -> Shape:
    """The shape with what the sources say for the reader: a title or note only where all that speak agree."""
    titles = {source.title for source in sources if source.title}
    descriptions = list(dict.fromkeys(source.description for source in sources if source.description))
    shared = [note for note in sources[0].notes if all(note in source.notes for source in sources)]
    return replace(
        shape,
        title=titles.pop() if len(titles) == 1 else None,
        description=" / ".join(descriptions) or None,
        notes=tuple(shared),
    )


def _hints(one: Shape, other: Shape) -> tuple[str, ...]:
    """What is meant where anything may be: what only some of the alternatives say of a property."""
    hint = describe(other if one == ANYTHING else one, 1)
    return (
        *one.notes,
        *other.notes,
        *([f"{hint[0].upper()}{hint[1:]}."] if hint != "any" and len(hint) <= _MAX_HINT else []),
    )


def _as_list_beside(shape: Shape, beside: Shape) -> Shape:
    """Null and booleans as listed values, beside a shape that is a list."""
    if shape.values is not None or beside.values is None or not shape.types <= {"null", "boolean"}:
        return shape
    values: tuple[Json, ...] = (False, True) if "boolean" in shape.types else ()
    return replace(shape, values=(*values, None) if "null" in shape.types else values)


def _as_types(shape: Shape) -> Shape:
    """A list of values as the types they have."""
    if shape.values is None:
        return shape
    whole = all(is_integer(value) for value in shape.values if type_of(value) == "number")
    return replace(shape, values=None, numbers=Numbers(integer=whole))


def _by_kind(one: Shape, other: Shape, memo: Memo) -> Shape:
    shared = one.types & other.types
    return normalized(
        Shape(
            types=one.types | other.types,
            strings=_strings(one.strings, other.strings) if "string" in shared else _of("string", one, other).strings,
            numbers=_numbers(one.numbers, other.numbers) if "number" in shared else _of("number", one, other).numbers,
            arrays=_arrays(one.arrays, other.arrays, memo) if "array" in shared else _of("array", one, other).arrays,
            objects=_objects(one.objects, other.objects, memo)
            if "object" in shared
            else _of("object", one, other).objects,
        )
    )


def _of(kind: JsonType, one: Shape, other: Shape) -> Shape:
    return one if kind in one.types else other


def _strings(one: Strings, other: Strings) -> Strings:
    return Strings(
        min(one.min_length, other.min_length),
        _most(one.max_length, other.max_length),
        tuple(pattern for pattern in one.patterns if pattern in other.patterns),
        one.format if one.format == other.format else None,
    )


def _numbers(one: Numbers, other: Numbers) -> Numbers:
    lower = min(one.lower, other.lower) if one.lower and other.lower else None
    upper = (
        max(one.upper, other.upper, key=lambda bound: (bound[0], not bound[1])) if one.upper and other.upper else None
    )
    return Numbers(one.integer and other.integer, lower, upper, _divisor(one.multiple_of, other.multiple_of))


def _divisor(one: int | float | None, other: int | float | None) -> int | float | None:
    """The one of two that divides the other."""
    if one is None or other is None or one == other:
        return one if one == other else None
    if isinstance(one, int) and isinstance(other, int):
        return other if one % other == 0 else one if other % one == 0 else None
    return None


def _arrays(one: Arrays, other: Arrays, memo: Memo) -> Arrays:
    return Arrays(
        _rest(one.items, other.items, memo),
        min(one.min_items, other.min_items),
        _most(one.max_items, other.max_items),
        one.unique and other.unique,
    )


def _objects(one: Objects, other: Objects, memo: Memo) -> Objects:
    names = dict.fromkeys((*one.properties, *other.properties))
    return Objects(
        {name: unite(one.at(name), other.at(name), memo) for name in names},
        tuple(name for name in one.required if name in other.required),
        _rest(one.others, other.others, memo),
    )


def _rest(one: Shape | None, other: Shape | None, memo: Memo) -> Shape | None:
    return None if one is None or other is None else unite(one, other, memo)


def _most(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)


def _says_no_more(union: Shape, shapes: Sequence[Shape]) -> bool:
    """Whether the union takes no value that none of the shapes takes: for each type, one of them alone takes all that it does."""
    if any(shape.options for shape in shapes):
        return False
    if union.values is not None:
        return True
    return all(
        kind == "null"
        or any(kind in shape.types and shape.values is None and _same(kind, union, shape) for shape in shapes)
        for kind in union.types
    )


def _same(kind: JsonType, one: Shape, other: Shape) -> bool:
    match kind:
        case "string":
            return one.strings == other.strings
        case "number":
            return one.numbers == other.numbers
        case "array":
            return one.arrays == other.arrays
        case "object":
            return one.objects == other.objects
        case _:
            return True
