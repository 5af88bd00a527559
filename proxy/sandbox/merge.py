"""One schema from two that must both hold (`allOf`, and a branch of `anyOf` with what stands beside it)."""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any] | bool

_LOWEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains")
_HIGHEST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains")


def merge(one: Schema, other: Schema) -> Schema:
    """A schema that is close to both: what fits it is still to be checked against each.

    Keywords that cannot be joined are kept as a further `allOf`.
    """
    if isinstance(one, bool):
        return other if one else False
    if isinstance(other, bool):
        return one if other else False
    joined = dict(one)
    left: dict[str, Any] = {}
    for keyword, value in other.items():
        if keyword not in joined or joined[keyword] == value:
            joined[keyword] = value
        elif not _join(joined, keyword, value):
            left[keyword] = value
    if left:
        joined["allOf"] = [*joined.get("allOf", []), left]
    return joined


def _join(joined: dict[str, Any], keyword: str, value: Any) -> bool:
    before = joined[keyword]
    if keyword in _LOWEST:
        joined[keyword] = min(before, value)
    elif keyword in _HIGHEST:
        joined[keyword] = max(before, value)
    elif keyword == "type":
        joined[keyword] = _types(before, value)
    elif keyword == "required":
        joined[keyword] = list(dict.fromkeys([*before, *value]))
    elif keyword == "properties":
        joined[keyword] = {
            name: merge(before.get(name, True), value.get(name, True)) for name in dict.fromkeys([*before, *value])
        }
    elif keyword in ("items", "additionalProperties"):
        joined[keyword] = merge(before, value)
    elif keyword == "enum":
        joined[keyword] = [item for item in before if item in value]
    elif keyword == "allOf":
        joined[keyword] = [*before, *value]
    elif keyword in ("title", "description", "default", "examples", "$comment", "format", "pattern"):
        # The first one leads; what comes of it is checked against the other.
        pass
    else:
        return False
    return True


def _types(one: str | list[str], other: str | list[str]) -> list[str]:
    mine, theirs = _listed(one), _listed(other)
    both = [name for name in mine if name in theirs]
    if "integer" not in both and {"integer", "number"} <= {*mine, *theirs}:
        both.append("integer")
    return both


def _listed(types: str | list[str]) -> list[str]:
    return [types] if isinstance(types, str) else list(types)
