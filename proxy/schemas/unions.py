"""The union of several shapes: what `anyOf` and `oneOf` mean.

The documented keywords have no union, so the shapes become one that accepts all their values and as few others as possible.
"""

from collections.abc import Sequence
from dataclasses import replace

from proxy.schemas.describe import alternatives, cut, describe, sentence
from proxy.schemas.shapes import (
    ANYTHING,
    BOUNDS,
    NOTHING,
    Bounds,
    Objects,
    Shape,
    intersect,
    normalized,
    of_values,
    structure,
)
from proxy.schemas.values import Json, JsonType, Memo, is_integer, type_of

_MAX_HINT = 120
_MAX_NOTES = 6
_MAX_DESCRIPTION = 1_000


def union(shapes: Sequence[Shape], memo: Memo, *, keep: bool = False) -> Shape:
    """The values that at least one of the shapes accepts. With `keep`, the alternatives are left as they are where one shape does not say
    the same, to be written as `anyOf`.
    """
    possible = [shape for shape in shapes if not shape.empty]
    if not possible:
        return NOTHING
    joined = _joined(possible, memo)
    # Whether it accepts no value that none of the shapes accepts: for each type, one of them alone accepts all that it does.
    exact = not any(shape.options for shape in possible) and (
        joined.values is not None
        or all(
            name == "null" or any(shape.values is None and _same(name, joined, shape, memo) for shape in possible)
            for name in joined.types
        )
    )
    other_than_null = [shape for shape in possible if shape.types != {"null"}]
    if len(other_than_null) <= 1:
        return _with_texts(joined, other_than_null or possible)
    if keep and not exact:
        return Shape(types=joined.types, options=tuple(possible))
    without_texts = not any(shape.description or shape.title or shape.notes for shape in other_than_null)
    keeps_lists = joined.values is not None or all(
        shape.values is None or shape.values == (None,) for shape in possible
    )
    needs_no_note = exact and without_texts and keeps_lists
    notes = () if needs_no_note else (f"One of: {alternatives(possible)}.",)
    return replace(joined, title=None, description=None, notes=notes)


def _joined(shapes: Sequence[Shape], memo: Memo) -> Shape:
    """Halves first: each of many alternatives is then copied a few times, not once for each that follows."""
    if len(shapes) == 1:
        return shapes[0]
    middle = len(shapes) // 2
    return unite(_joined(shapes[:middle], memo), _joined(shapes[middle:], memo), memo)


def _without_options(shape: Shape, memo: Memo) -> Shape:
    """The shape without options: their union is part of it."""
    return intersect(replace(shape, options=()), union(shape.options, memo), memo) if shape.options else shape


def unite(one: Shape, other: Shape, memo: Memo) -> Shape:
    """The values that one of two shapes accepts, and as few others as a shape can be without."""
    if one is other or other.empty or (one.open and other is ANYTHING):
        return one
    if one.empty or (other.open and one is ANYTHING):
        return other
    return memo.apply(_unite, one, other)


def _unite(one: Shape, other: Shape, memo: Memo) -> Shape:
    if one.open or other.open or ANYTHING in (one, other):
        # What they say of properties is kept, each of which may be anything.
        one, other = (memo.apply(_outlined, shape, ANYTHING) for shape in (one, other))
        members = dict(one.objects.properties)
        for name, member in other.objects.properties.items():
            members[name] = unite(members[name], member, memo) if name in members else member
        memo.spend(len(members) // 8)
        shape = Shape(objects=Objects(members) if members else ANYTHING.objects, open=True)
        return _with_texts(shape, (one, other))
    one, other = _without_options(one, memo), _without_options(other, memo)
    one, other = _as_list_beside(one, other), _as_list_beside(other, one)
    if one.values is not None and other.values is not None:
        memo.spend((len(one.values) + len(other.values)) // 8)
        joined = of_values((*one.values, *other.values))
    else:
        one, other = _as_types(one), _as_types(other)
        items = one.items if "array" in one.types else other.items
        objects = one.objects if "object" in one.types else other.objects
        if "array" in one.types & other.types:
            items = _either(one.items, other.items, memo)
        if "object" in one.types & other.types:
            objects = _objects(one.objects, other.objects, memo)
        bounds = _bounds(one, other) if one.bounds or other.bounds else {}
        joined = normalized(Shape(types=one.types | other.types, bounds=bounds, items=items, objects=objects))
    return _with_texts(joined, (one, other))


def _with_texts(shape: Shape, sources: Sequence[Shape]) -> Shape:
    """The shape with what the sources say for the reader: a title only where all that have one agree."""
    titles = {source.title for source in sources if source.title}
    descriptions = list(dict.fromkeys(source.description for source in sources if source.description))
    description = descriptions[0] if len(descriptions) == 1 else cut(" / ".join(descriptions), _MAX_DESCRIPTION)
    notes = list(dict.fromkeys(note for source in sources for note in source.notes))
    return replace(
        shape,
        title=titles.pop() if len(titles) == 1 else None,
        description=description or None,
        notes=tuple(notes[:_MAX_NOTES]),
    )


def _outlined(shape: Shape, anything: Shape, memo: Memo) -> Shape:
    """A shape that accepts anything, and says what is meant: the properties of an object with what each is meant to be."""
    if shape.open or shape == anything:
        return shape
    members = {}
    if "object" in shape.types and shape.values is None:
        properties = shape.objects.properties.items()
        members = {name: memo.apply(_outlined, member, anything) for name, member in properties if not member.empty}
    memo.spend(len(members) // 8)
    hint = describe(replace(shape, title=None, description=None, notes=()), 1, _MAX_HINT)
    hints = (sentence(hint),) if hint != "any" and len(hint) <= _MAX_HINT else ()
    objects = Objects(members) if members else anything.objects
    return Shape(
        objects=objects, title=shape.title, description=shape.description, notes=(*shape.notes, *hints), open=True
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
    return replace(shape, values=None, bounds={"integer": True} if whole else {})


def _bounds(one: Shape, other: Shape) -> Bounds:
    bounds = {}
    for keyword, (kind, _, looser) in BOUNDS.items():
        found = [shape.bounds.get(keyword) for shape in (one, other) if kind in shape.types]
        if found and None not in found:
            bound = looser(*found) if len(found) == 2 else found[0]
            bounds.update({} if bound is None else {keyword: bound})
    return bounds


def _objects(one: Objects, other: Objects, memo: Memo) -> Objects:
    names = dict.fromkeys((*one.properties, *other.properties))
    memo.spend(len(names) // 8)
    return Objects(
        {name: unite(one.at(name), other.at(name), memo) for name in names},
        tuple(name for name in one.required if name in other.required),
        _either(one.others, other.others, memo),
    )


def _either(one: Shape | None, other: Shape | None, memo: Memo) -> Shape | None:
    return None if one is None or other is None else unite(one, other, memo)


def _same(name: JsonType, one: Shape, other: Shape, memo: Memo) -> bool:
    """Whether two shapes accept the same values of a type, which the first one has."""
    if name not in other.types:
        return False
    if any(one.bounds.get(key) != other.bounds.get(key) for key, (kind, _, _) in BOUNDS.items() if kind == name):
        return False
    if name == "array":
        return memo.key(one.items, structure) == memo.key(other.items, structure)
    return name != "object" or (
        len(one.objects.properties) == len(other.objects.properties)
        and memo.key(one.objects, structure) == memo.key(other.objects, structure)
    )
