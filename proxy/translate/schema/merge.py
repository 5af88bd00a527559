"""Both of two shapes: what `allOf`, `$ref` beside other keywords, and keywords beside each other mean.

Each function takes two parts and gives the values that both take; where the documented keywords cannot say that, one of the two and a note.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from proxy.translate.schema.shape import (
    ANY_ARRAY,
    ANY_NUMBER,
    ANY_OBJECT,
    ANY_STRING,
    ANYTHING,
    Arrays,
    Bound,
    Numbers,
    Objects,
    Shape,
    Strings,
    settled,
)
from proxy.translate.schema.values import Json, identity
from proxy.translate.schema.work import Work

_MAX_LCM = 2**53


def both(one: Shape, other: Shape, work: Work) -> Shape:
    """The values that both shapes take. What the first says of itself (title, description, order of properties) comes first."""
    if one is other or other is ANYTHING:
        return one
    if one is ANYTHING:
        return other
    return work.once(_both, one, other)


def _both(one: Shape, other: Shape, work: Work) -> Shape:
    numbers, exact = _numbers(one.numbers, other.numbers)
    strings, told = _strings(one.strings, other.strings)
    return settled(
        Shape(
            kinds=one.kinds & other.kinds,
            values=_values(one, other),
            strings=strings,
            numbers=numbers,
            arrays=_arrays(one.arrays, other.arrays, work),
            objects=_objects(one.objects, other.objects, work),
            options=_options(one.options, other.options, work),
            title=one.title or other.title,
            description=_texts(one.description, other.description),
            notes=tuple(dict.fromkeys((*one.notes, *other.notes))) if one.notes or other.notes else (),
            exact=one.exact and other.exact and exact and told,
        )
    )


def _texts(one: str | None, other: str | None) -> str | None:
    if not one or not other or other in one:
        return one or other
    return other if one in other else f"{one}\n{other}"


def _values(one: Shape, other: Shape) -> tuple[Json, ...] | None:
    if one.values is None or other.values is None:
        return other.values if one.values is None else one.values
    shared = set(map(identity, other.values))
    return tuple(value for value in one.values if identity(value) in shared)


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


def _arrays(one: Arrays, other: Arrays, work: Work) -> Arrays:
    if one is ANY_ARRAY or other is ANY_ARRAY:
        return other if one is ANY_ARRAY else one
    items = _rest(one.items, other.items, work)
    return Arrays(
        items, max(one.min_items, other.min_items), _least(one.max_items, other.max_items), one.unique or other.unique
    )


def _objects(one: Objects, other: Objects, work: Work) -> Objects:
    if one is ANY_OBJECT or other is ANY_OBJECT:
        return other if one is ANY_OBJECT else one
    names = dict.fromkeys((*one.properties, *other.properties))
    return Objects(
        {name: both(one.at(name), other.at(name), work) for name in names},
        tuple(dict.fromkeys((*one.required, *other.required))),
        _rest(one.others, other.others, work),
    )


def _rest(one: Shape | None, other: Shape | None, work: Work) -> Shape | None:
    if one is None or other is None:
        return other if one is None else one
    return both(one, other, work)


def _options(one: tuple[Shape, ...], other: tuple[Shape, ...], work: Work) -> tuple[Shape, ...]:
    """One of the first and one of the second: the second's inside each of the first's."""
    if not one or not other:
        return one or other
    return tuple(both(option, Shape(options=other), work) for option in one)


def _least(one: int | None, other: int | None) -> int | None:
    return min((bound for bound in (one, other) if bound is not None), default=None)


def with_notes(shape: Shape, notes: Iterable[str], *, exact: bool = False) -> Shape:
    """The shape, and words for what it does not say."""
    added = tuple(note for note in notes if note)
    return replace(
        shape, notes=tuple(dict.fromkeys((*shape.notes, *added))), exact=shape.exact and (exact or not added)
    )
