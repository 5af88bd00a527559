"""One schema from two that must both hold (`allOf`, and a branch of `anyOf` with what stands beside it)."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

Schema = Mapping[str, Any] | bool

_ALTERNATIVES = ("anyOf", "oneOf", "if", "then", "else")
_LOWEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains")
_HIGHEST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains")


def merge(one: Schema, other: Schema) -> Schema:
    """A schema that is close to both: what fits it is still to be checked against each.

    Of keywords that cannot be joined the first one leads; alternatives are kept as a further `allOf`.
    """
    if isinstance(one, bool):
        return other if one else False
    if isinstance(other, bool):
        return one if other else False
    joined = dict(one)
    alternatives: dict[str, Any] = {}
    for keyword, value in other.items():
        if keyword not in joined:
            joined[keyword] = value
        elif keyword in _ALTERNATIVES and joined[keyword] != value:
            alternatives[keyword] = value
        else:
            joined[keyword] = _joined(keyword, joined[keyword], value)
    if alternatives:
        joined["allOf"] = [*joined.get("allOf", []), alternatives]
    return joined


def _joined(keyword: str, one: Any, other: Any) -> Any:
    if keyword in _LOWEST:
        return min(one, other)
    if keyword in _HIGHEST:
        return max(one, other)
    match keyword:
        case "type":
            return _types(one, other)
        case "multipleOf":
            return _common_multiple(one, other)
        case "required":
            return list(dict.fromkeys([*one, *other]))
        case "properties":
            return {name: merge(one.get(name, True), other.get(name, True)) for name in dict.fromkeys([*one, *other])}
        case "items" | "additionalProperties":
            return merge(one, other)
        case "enum":
            return [item for item in one if item in other]
        case "allOf":
            return [*one, *other]
        case _:
            return one


def _common_multiple(one: float, other: float) -> float:
    first, second = Fraction(str(one)), Fraction(str(other))
    scale = math.lcm(first.denominator, second.denominator)
    common = Fraction(math.lcm(int(first * scale), int(second * scale)), scale)
    return int(common) if common.denominator == 1 else float(common)


def _types(one: str | list[str], other: str | list[str]) -> list[str]:
    mine, theirs = _listed(one), _listed(other)
    both = [name for name in mine if name in theirs]
    if "integer" not in both and {"integer", "number"} <= {*mine, *theirs}:
        both.append("integer")
    return both


def _listed(types: str | list[str]) -> list[str]:
    return [types] if isinstance(types, str) else list(types)
