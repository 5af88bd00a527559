"""The rules for keywords that speak of one JSON type each."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.translate.schema.notes import count_words, cut, names, told, words
from proxy.translate.schema.shape import ALL_KINDS, ANYTHING, NOTHING, Arrays, Bound, Numbers, Objects, Shape, Strings
from proxy.translate.schema.unions import any_of
from proxy.translate.schema.values import Json, Kind
from proxy.translate.schema.work import Work

JsonObject = dict[str, Json]

STRING_KEYWORDS = frozenset({"minLength", "maxLength", "pattern", "format"})
NUMBER_KEYWORDS = frozenset({"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
ARRAY_KEYWORDS = frozenset(
    {"items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains", "unevaluatedItems"}
)
OBJECT_KEYWORDS = (
    frozenset({"properties", "required", "additionalProperties", "patternProperties", "propertyNames", "unevaluatedProperties"})
    | frozenset({"minProperties", "maxProperties", "dependencies", "dependentRequired", "dependentSchemas"})
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inside:
    """What a rule needs for the schemas of properties and items.

    Attributes:
        read: gives the shape of such a schema.
        work: steps left.
        lost: words for what no keyword says; rules add to it.
    """

    read: Callable[[Json], Shape]
    work: Work
    lost: list[str] = field(default_factory=list)


def kinds(said: JsonObject) -> frozenset[Kind]:
    """`type`, and OpenAPI's `nullable` beside it."""
    named = said.get("type")
    if named is None:
        return ALL_KINDS
    types: list[Any] = named if isinstance(named, list) else [named]
    wide: frozenset[Kind] = frozenset("number" if name == "integer" else name for name in types)
    return wide | {"null"} if said.get("nullable") is True else wide


def strings(said: JsonObject) -> Strings:
    """`minLength`, `maxLength`, `pattern`, `format`."""
    most = said.get("maxLength")
    return Strings(
        int(said.get("minLength", 0)),
        None if most is None else int(most),
        (said["pattern"],) if "pattern" in said else (),
        said.get("format"),
    )


def numbers(said: JsonObject) -> Numbers:
    """`type: integer`, the four bounds (in draft 4 the exclusive ones are booleans), `multipleOf`."""
    named = said.get("type")
    types = named if isinstance(named, list) else [named]
    return Numbers(
        "integer" in types and "number" not in types,
        max(_bounds(said, "minimum", "exclusiveMinimum"), default=None),
        min(_bounds(said, "maximum", "exclusiveMaximum"), key=lambda bound: (bound[0], not bound[1]), default=None),
        said.get("multipleOf"),
    )


def _bounds(said: JsonObject, inclusive: str, exclusive: str) -> list[Bound]:
    bound, strict = said.get(inclusive), said.get(exclusive)
    if isinstance(strict, bool):
        return [] if bound is None else [(bound, strict)]
    return ([] if bound is None else [(bound, False)]) + ([] if strict is None else [(strict, True)])


def arrays(said: JsonObject, inside: Inside) -> Arrays:
    """`items`, `prefixItems` and its older spelling, the counts, `uniqueItems`, `contains`, `unevaluatedItems`."""
    counts = array_counts(said)
    least, most = counts.min_items, counts.max_items
    items = said.get("items", True)
    older = isinstance(items, list)
    prefix, rest = (items, said.get("additionalItems", True)) if older else (said.get("prefixItems", []), items)
    shape = None if rest is True else inside.read(rest)
    if prefix:
        first = [inside.read(member) for member in prefix]
        inside.lost.append(f"Items in order: {cut(', '.join(map(words, first)), 300)}.")
        if shape is not None and shape.empty:
            most = min(len(prefix), len(prefix) if most is None else most)
        if most is not None and most <= len(prefix):
            first, shape = first[:most], NOTHING
        shape = None if shape is None else _unsaid(any_of([*first, shape], inside.work))
    if "contains" in said:
        least = max(least, _contains(said, inside))
    if said.get("unevaluatedItems", True) is not True:
        inside.lost.append("No items but those described.")
    return Arrays(shape, least, most, counts.unique)


def array_counts(said: JsonObject) -> Arrays:
    """`minItems`, `maxItems`, `uniqueItems`."""
    most = said.get("maxItems")
    return Arrays(
        None, int(said.get("minItems", 0)), None if most is None else int(most), said.get("uniqueItems", False)
    )


def _unsaid(shape: Shape) -> Shape:
    """Without what was put together for the reader, as it is told where it belongs."""
    return replace(shape, title=None, description=None, notes=())


def _contains(said: JsonObject, inside: Inside) -> int:
    """How many items there are at least."""
    least, most = int(said.get("minContains", 1)), said.get("maxContains")
    shape = inside.read(said["contains"])
    if least or most is not None:
        count = count_words(least, None if most is None else int(most), "item", "items").rstrip(".")
        inside.lost.append(f"{count} of this form: {words(shape)}.")
    return least


def objects(said: JsonObject, inside: Inside) -> Objects:
    """`properties`, `required`, `additionalProperties`, `patternProperties`, `propertyNames`, the counts, the dependencies."""
    own = {name: inside.read(member) for name, member in said.get("properties", {}).items()}
    others = _others(said, inside)
    _tell_counts(said, inside)
    _tell_dependencies(said, inside)
    shape = Objects(own, tuple(said.get("required", ())), others)
    return _names(said["propertyNames"], shape, inside) if "propertyNames" in said else shape


def _others(said: JsonObject, inside: Inside) -> Shape | None:
    """The shape of properties that are not declared by name; None: any."""
    rest = said.get("additionalProperties", _unevaluated(said, inside))
    shape = None if rest is True else inside.read(rest)
    patterned = said.get("patternProperties")
    if not patterned:
        return shape
    by_pattern = {source: inside.read(member) for source, member in patterned.items()}
    told_patterns = "; ".join(f"{cut(source, 80)}: {words(member)}" for source, member in by_pattern.items())
    inside.lost.append(f"Properties named like {cut(told_patterns, 300)}.")
    return None if shape is None else _unsaid(any_of([*by_pattern.values(), shape], inside.work))


def _unevaluated(said: JsonObject, inside: Inside) -> Json:
    """`unevaluatedProperties`: as `additionalProperties` where only this schema declares properties, else told."""
    rest = said.get("unevaluatedProperties", True)
    if rest is True or not said.keys() & _DECLARING:
        return rest
    inside.lost.append("No properties but those described.")
    return True


_DECLARING = frozenset(
    {"$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas"}
)


def _names(schema: Json, shape: Objects, inside: Inside) -> Objects:
    """`propertyNames`: where it lists the names, they are the properties; else told."""
    allowed = inside.read(schema)
    if allowed == ANYTHING:
        return shape
    if "string" not in allowed.kinds:
        allowed = replace(allowed, values=())
    if allowed.values is None:
        inside.lost.append(f"Property names: {words(allowed)}.")
        return shape
    listed = {name: shape.at(name) for name in allowed.values if isinstance(name, str)}
    denied = {name: NOTHING for name in shape.properties if name not in listed}
    declared = {name: listed[name] for name in shape.properties if name in listed}
    return Objects({**declared, **listed, **denied}, shape.required, NOTHING)


def _tell_counts(said: JsonObject, inside: Inside) -> None:
    least, most = (said.get(keyword) for keyword in ("minProperties", "maxProperties"))
    if least or most is not None:
        inside.lost.append(count_words(int(least or 0), None if most is None else int(most), "property", "properties"))


def _tell_dependencies(said: JsonObject, inside: Inside) -> None:
    needs = {**said.get("dependencies", {}), **said.get("dependentRequired", {}), **said.get("dependentSchemas", {})}
    for name, need in needs.items():
        text = f"also {names(need)}" if isinstance(need, list) else words(inside.read(need))
        if need != []:
            inside.lost.append(f"With {told(name)}: {text}.")
