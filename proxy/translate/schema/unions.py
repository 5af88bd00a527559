"""Any of several shapes: what `anyOf` and `oneOf` mean.

The documented keywords have no union, so the shapes become one that takes all their values and as few others as can be said:

    scalars             a list of types, or one list of values
    null and another    the other, and null: `type: [X, "null"]`
    objects             all properties of all; required where all require it; a property is the union of what each says of it,
                        so that a discriminator becomes a list of values
    others              type by type
"""

from collections.abc import Sequence
from dataclasses import replace

from proxy.translate.schema.merge import both
from proxy.translate.schema.notes import alternatives, words
from proxy.translate.schema.shape import ANYTHING, NOTHING, Arrays, Numbers, Objects, Shape, Strings, listed, settled
from proxy.translate.schema.values import Json, Kind, identity, is_integer, kind_of
from proxy.translate.schema.work import Work

_MAX_HINT = 120


def any_of(shapes: Sequence[Shape], work: Work, *, keep: bool = False) -> Shape:
    """The values that at least one of the shapes takes.

    Args:
        shapes: the alternatives.
        work: steps left.
        keep: leave the alternatives as they are where one shape does not say the same, to be written as `anyOf`.
    """
    alive = [shape for shape in shapes if not shape.empty]
    if not alive:
        return NOTHING
    union = _joined(alive, work)
    exact = _says_no_more(union, alive)
    speaking = [shape for shape in alive if shape.kinds != {"null"}]
    if len(speaking) <= 1:
        return replace(_annotated(union, speaking or alive), exact=exact and all(shape.exact for shape in alive))
    if keep and not exact:
        return Shape(kinds=union.kinds, options=tuple(alive), exact=all(shape.exact for shape in alive))
    silent = (
        exact
        and not any(shape.description or shape.title or shape.notes for shape in speaking)
        and not _forgets(union, alive)
    )
    notes = () if silent else (f"One of: {alternatives(alive)}.",)
    return replace(
        union, title=None, description=None, notes=notes, exact=exact and all(shape.exact for shape in alive)
    )


def _joined(shapes: Sequence[Shape], work: Work) -> Shape:
    """Halves first: each of many alternatives is then copied a few times, not once for each that follows."""
    if len(shapes) == 1:
        return shapes[0]
    middle = len(shapes) // 2
    return either(_joined(shapes[:middle], work), _joined(shapes[middle:], work), work)


def _forgets(union: Shape, shapes: Sequence[Shape]) -> bool:
    """Whether some listed values are no longer listed."""
    return union.values is None and any(shape.values is not None and shape.values != (None,) for shape in shapes)


def disjoint(shapes: Sequence[Shape]) -> bool:
    """Whether no two of the shapes take the same value, as far as types and listed values tell."""
    kinds: set[Kind] = set()
    values: set[str] = set()
    for shape in shapes:
        if shape.values is None:
            if kinds & shape.kinds:
                return False
            kinds |= shape.kinds
        marks = set(map(identity, shape.values or ()))
        if marks & values:
            return False
        values |= marks
    return not any(shape.values is not None and shape.kinds & kinds for shape in shapes)


def folded(shape: Shape, work: Work) -> Shape:
    """The shape without options: their union is part of it."""
    return both(replace(shape, options=()), any_of(shape.options, work), work) if shape.options else shape


def either(one: Shape, other: Shape, work: Work) -> Shape:
    """The values that one of two shapes takes, and as few others as a shape can be without."""
    if one is other or other.empty:
        return one
    if one.empty:
        return other
    return work.once(_either, one, other)


def _either(one: Shape, other: Shape, work: Work) -> Shape:
    if ANYTHING in (one, other):
        return replace(_annotated(ANYTHING, (one, other)), notes=_hints(one, other), exact=one.exact and other.exact)
    one, other = folded(one, work), folded(other, work)
    one, other = _as_list_beside(one, other), _as_list_beside(other, one)
    if one.values is not None and other.values is not None:
        values = {identity(value): value for value in (*one.values, *other.values)}
        union = listed(tuple(values.values()))
    else:
        union = _by_kind(_as_types(one), _as_types(other), work)
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
    hint = words(other if one == ANYTHING else one, 1)
    return (
        *one.notes,
        *other.notes,
        *([f"{hint[0].upper()}{hint[1:]}."] if hint != "any" and len(hint) <= _MAX_HINT else []),
    )


def _as_list_beside(shape: Shape, beside: Shape) -> Shape:
    """Null and booleans as listed values, beside a shape that is a list."""
    if shape.values is not None or beside.values is None or not shape.kinds <= {"null", "boolean"}:
        return shape
    values: tuple[Json, ...] = (False, True) if "boolean" in shape.kinds else ()
    return replace(shape, values=(*values, None) if "null" in shape.kinds else values)


def _as_types(shape: Shape) -> Shape:
    """A list of values as the types they have."""
    if shape.values is None:
        return shape
    whole = all(is_integer(value) for value in shape.values if kind_of(value) == "number")
    return replace(shape, values=None, numbers=Numbers(integer=whole))


def _by_kind(one: Shape, other: Shape, work: Work) -> Shape:
    shared = one.kinds & other.kinds
    return settled(
        Shape(
            kinds=one.kinds | other.kinds,
            strings=_strings(one.strings, other.strings) if "string" in shared else _of("string", one, other).strings,
            numbers=_numbers(one.numbers, other.numbers) if "number" in shared else _of("number", one, other).numbers,
            arrays=_arrays(one.arrays, other.arrays, work) if "array" in shared else _of("array", one, other).arrays,
            objects=_objects(one.objects, other.objects, work)
            if "object" in shared
            else _of("object", one, other).objects,
        )
    )


def _of(kind: Kind, one: Shape, other: Shape) -> Shape:
    return one if kind in one.kinds else other


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


def _arrays(one: Arrays, other: Arrays, work: Work) -> Arrays:
    return Arrays(
        _rest(one.items, other.items, work),
        min(one.min_items, other.min_items),
        _most(one.max_items, other.max_items),
        one.unique and other.unique,
    )


def _objects(one: Objects, other: Objects, work: Work) -> Objects:
    names = dict.fromkeys((*one.properties, *other.properties))
    return Objects(
        {name: either(one.at(name), other.at(name), work) for name in names},
        tuple(name for name in one.required if name in other.required),
        _rest(one.others, other.others, work),
    )


def _rest(one: Shape | None, other: Shape | None, work: Work) -> Shape | None:
    return None if one is None or other is None else either(one, other, work)


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
        or any(kind in shape.kinds and shape.values is None and _same(kind, union, shape) for shape in shapes)
        for kind in union.kinds
    )


def _same(kind: Kind, one: Shape, other: Shape) -> bool:
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
