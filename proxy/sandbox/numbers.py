"""Numbers that a schema allows, the plainest first."""

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import islice
from typing import Any

_PLAIN = 1
_TRIES = 10_000
_BIGGEST = Fraction(10) ** 308
_BIGGEST_INT = 2**63 - 1


def numbers(schema: Mapping[str, Any], *, integer: bool) -> Iterator[int | float]:
    """Different numbers within the bounds that are multiples as asked.

    Args:
        schema: a schema for numbers.
        integer: whether only whole numbers will do.
    """
    low, high = _low(schema), _high(schema)
    step = _step(schema, integer)
    if step is None:
        if low is not None and high is not None and high - low < 2 and not _whole_between(low, high):
            yield from _between(schema, low, high)
            return
        step = Fraction(1)
    for number in islice(_multiples(step, low, high), _TRIES):
        if _inside(schema, number) and abs(number) < _BIGGEST:
            value = _as_json(number)
            if _divides(schema, value):
                yield value


def _low(schema: Mapping[str, Any]) -> Fraction | None:
    bounds = [Fraction(str(schema[name])) for name in ("minimum", "exclusiveMinimum") if name in schema]
    return max(bounds, default=None)


def _high(schema: Mapping[str, Any]) -> Fraction | None:
    bounds = [Fraction(str(schema[name])) for name in ("maximum", "exclusiveMaximum") if name in schema]
    return min(bounds, default=None)


def _inside(schema: Mapping[str, Any], number: Fraction) -> bool:
    return not (
        ("minimum" in schema and number < Fraction(str(schema["minimum"])))
        or ("maximum" in schema and number > Fraction(str(schema["maximum"])))
        or ("exclusiveMinimum" in schema and number <= Fraction(str(schema["exclusiveMinimum"])))
        or ("exclusiveMaximum" in schema and number >= Fraction(str(schema["exclusiveMaximum"])))
    )


def _step(schema: Mapping[str, Any], integer: bool) -> Fraction | None:
    if "multipleOf" in schema:
        step = Fraction(str(schema["multipleOf"]))
        # Of the multiples of n/d in lowest terms, the whole ones are the multiples of n.
        return Fraction(step.numerator) if integer else step
    return Fraction(1) if integer else None


def _whole_between(low: Fraction, high: Fraction) -> bool:
    first = math.floor(low) + 1
    return first < high


def _between(schema: Mapping[str, Any], low: Fraction, high: Fraction) -> Iterator[float]:
    for edge in (low, high):
        if _inside(schema, edge):
            yield _as_json(edge)
    parts = 2
    while parts < 2**20:
        for part in range(1, parts, 2):
            number = float(low + (high - low) * Fraction(part, parts))
            if _inside(schema, Fraction(str(number))):
                yield number
        parts *= 2


def _multiples(step: Fraction, low: Fraction | None, high: Fraction | None) -> Iterator[Fraction]:
    first = _first(step, low, high)
    up = first
    while high is None or up * step <= high:
        yield up * step
        up += 1
    down = first - 1
    while low is None or down * step >= low:
        yield down * step
        down -= 1


def _first(step: Fraction, low: Fraction | None, high: Fraction | None) -> int:
    first = math.ceil(Fraction(_PLAIN) / step)
    if high is not None:
        first = min(first, math.floor(high / step))
    if low is not None:
        first = max(first, math.ceil(low / step))
    return first


def _as_json(number: Fraction) -> int | float:
    if number.denominator == 1 and abs(number) <= _BIGGEST_INT:
        return int(number)
    return float(number)


def _divides(schema: Mapping[str, Any], value: float) -> bool:
    """Whether binary arithmetic agrees that this is a multiple: a checker may not know better."""
    step = schema.get("multipleOf")
    return not isinstance(step, float) or (value / step).is_integer()
