"""Reading a schema as a shape: one rule a keyword, always toward the same values or more. `docs/schemas.md` is this file as a table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.schemas.describe import count_text, cut, describe, names, quoted
from proxy.schemas.document import Document
from proxy.schemas.shapes import (
    ALL_TYPES,
    ANYTHING,
    NOTHING,
    Arrays,
    Bound,
    Numbers,
    Objects,
    Shape,
    Strings,
    intersect,
    normalized,
    of_values,
    with_notes,
)
from proxy.schemas.unions import disjoint, union
from proxy.schemas.values import Json, JsonObject, JsonType, Memo

MAX_LEVELS = 48
"""Levels of nesting written out; what lies deeper is opened."""

_ANNOTATIONS = frozenset(
    {"title", "description", "$comment", "default", "examples", "deprecated", "readOnly", "writeOnly"}
)
_ASIDES = frozenset({"default", "examples", "contentEncoding", "contentMediaType", "deprecated"})


@dataclass(frozen=True, slots=True)
class Expansion:
    """How far nesting and references are still followed.

    Attributes:
        levels: levels of nesting.
        recursions: references to definitions that contain themselves.
        references: other references; None: any number.
    """

    levels: int
    recursions: int
    references: int | None = None

    def inside(self) -> "Expansion":
        """The expansion of a property or an item."""
        return Expansion(self.levels - 1, self.recursions, self.references)


@dataclass(slots=True)
class Reader:
    """Reads the schemas of one document.

    Attributes:
        document: where they stand.
        keep_unions: leave `anyOf` where it says more than one shape can.
        memo: steps left.
    """

    document: Document
    keep_unions: bool
    memo: Memo
    _known: dict[tuple[int, int, int | None], tuple[Shape, int]] = field(default_factory=dict)
    _outlines: dict[int, Shape] = field(default_factory=dict)
    _lowest: int = MAX_LEVELS

    def read(self, schema: Json, expansion: Expansion) -> Shape:
        """The shape of a schema: what all its keywords say together.

        Raises:
            TooLarge: the steps are used up.
        """
        if isinstance(schema, bool):
            return ANYTHING if schema else NOTHING
        self.memo.spend()
        self._lowest = min(self._lowest, expansion.levels)
        if expansion.levels <= 0:
            return with_notes(Shape(types=_named_types(schema)), ["What is nested here is not told."])
        keywords = self.document.draft.keywords(schema)
        shape = self._own(schema, keywords, expansion)
        for keyword, rule in RULES.items():
            if keyword in keywords:
                shape = intersect(shape, rule(self, schema, expansion), self.memo)
        return shape

    def _own(self, schema: JsonObject, keywords: JsonObject, expansion: Expansion) -> Shape:
        """What the keywords say that need no other schema in place."""
        within = expansion.inside()
        context = Context(lambda member: self.read(member, within), self.memo)
        keys = keywords.keys()
        shape = Shape(
            types=types_of(keywords),
            strings=strings(keywords) if keys & STRING_KEYWORDS else ANYTHING.strings,
            numbers=numbers(keywords) if keys & NUMBER_KEYWORDS else ANYTHING.numbers,
            arrays=arrays(keywords, context) if keys & ARRAY_KEYWORDS else ANYTHING.arrays,
            objects=objects(keywords, context) if keys & OBJECT_KEYWORDS else ANYTHING.objects,
            title=_text(schema, "title"),
            description=_text(schema, "description"),
            notes=(*context.notes, *_asides(schema)) if context.notes or schema.keys() & _ASIDES else (),
            exact=not context.notes,
        )
        shape = normalized(shape)
        for values in (keywords.get("enum"), [keywords["const"]] if "const" in keywords else None):
            if values is not None:
                shape = intersect(shape, of_values(tuple(values)), self.memo)
        return shape

    def outline(self, schema: Json) -> Shape:
        """The shape of a schema without that of its properties and items."""
        known = self._outlines.get(id(schema))
        if known is None:
            known = self._outlines[id(schema)] = self.read(schema, Expansion(levels=1, recursions=MAX_LEVELS))
        return known

    def _opened(self, target: JsonObject, reference: str) -> Shape:
        """Where a reference is not followed: any value of the types that it allows, and a note."""
        name = _name(reference, target)
        shape = Shape(types=self.outline(target).types, title=_text(target, "title") or name)
        return with_notes(shape, [f"A nested {name}, of the form given above."])

    def named(self, reference: str, target: Json, expansion: Expansion) -> Shape:
        """The shape of the schema that a reference names; the same one at the same expansion is read once."""
        if isinstance(target, bool):
            return self.read(target, expansion)
        recursions, references = expansion.recursions, expansion.references
        if id(target) in self.document.recursive:
            recursions -= 1
        elif references is not None:
            references -= 1
        if recursions < 0 or references == -1:
            return self._opened(target, reference)
        known = self._known.get((id(target), recursions, references))
        if known and known[1] < expansion.levels:
            self._lowest = min(self._lowest, expansion.levels - known[1])
            return known[0]
        outer, self._lowest = self._lowest, expansion.levels
        shape = self.read(target, Expansion(expansion.levels, recursions, references))
        if self._lowest > 0:  # nothing in it was cut off for lack of levels, so it serves wherever as many are left
            self._known[id(target), recursions, references] = (shape, expansion.levels - self._lowest)
        self._lowest = min(outer, self._lowest)
        return shape


def _named_types(schema: JsonObject) -> frozenset[JsonType]:
    return ALL_TYPES if "$ref" in schema else types_of(schema)


def _name(reference: str, target: JsonObject) -> str:
    return cut(_text(target, "title") or reference.rstrip("/#").rpartition("/")[2] or "value", 60)


def _text(schema: JsonObject, keyword: str) -> str | None:
    value = schema.get(keyword)
    return value if isinstance(value, str) and value else None


def _asides(schema: JsonObject) -> tuple[str, ...]:
    """What says something to the reader and binds no value."""
    examples = schema.get("examples")
    return tuple(
        filter(
            None,
            (
                f"Default: {quoted(schema['default'])}." if schema.get("default") is not None else "",
                f"Examples: {', '.join(map(quoted, examples[:3]))}." if isinstance(examples, list) and examples else "",
                f"Encoding: {encoding}." if (encoding := _text(schema, "contentEncoding")) else "",
                f"Media type: {media}." if (media := _text(schema, "contentMediaType")) else "",
                "Deprecated." if schema.get("deprecated") is True else "",
            ),
        )
    )


# ---------------------------------------------------------------- keywords whose schemas checker the same value


def _reference(reader: Reader, schema: JsonObject, expansion: Expansion) -> Shape:
    return reader.named(schema["$ref"], reader.document.targets[id(schema)], expansion)


def _dynamic_reference(reader: Reader, schema: JsonObject, expansion: Expansion) -> Shape:
    """As `$ref`, where only one schema can be meant; else told."""
    target = reader.document.dynamic.get(id(schema))
    if target is None:
        return with_notes(Shape(), ["A nested value, of the form given above."])
    return reader.named(schema.get("$dynamicRef", "#"), target, expansion)


def _all_of(reader: Reader, schema: JsonObject, expansion: Expansion) -> Shape:
    shape = ANYTHING
    for member in schema["allOf"]:
        shape = intersect(shape, reader.read(member, expansion), reader.memo)
    return shape


def _any_of(reader: Reader, schema: JsonObject, expansion: Expansion) -> Shape:
    return union([reader.read(member, expansion) for member in schema["anyOf"]], reader.memo, keep=reader.keep_unions)


def _one_of(reader: Reader, schema: JsonObject, expansion: Expansion) -> Shape:
    """As `anyOf`: a value that two of the schemas take is taken too."""
    shapes = [reader.read(member, expansion) for member in schema["oneOf"]]
    shape = union(shapes, reader.memo, keep=reader.keep_unions)
    return shape if disjoint(shapes) else replace(shape, exact=False)


def _not(reader: Reader, schema: JsonObject, expansion: Expansion) -> Shape:
    """Expressed where it forbids types, or one property; else told."""
    denied = schema["not"]
    if isinstance(denied, bool):
        return NOTHING if denied else ANYTHING
    keywords = denied.keys() - _ANNOTATIONS
    if not keywords:
        return NOTHING
    if keywords == {"type"}:
        named = denied["type"] if isinstance(denied["type"], list) else [denied["type"]]
        only_integers = "integer" in named and "number" not in named
        rest = ALL_TYPES - (types_of(denied) - {"number"} if only_integers else types_of(denied))
        return with_notes(Shape(types=rest), ["Not an integer."] if only_integers else [])
    if keywords == {"required"} and len(denied["required"]) == 1:
        return Shape(types=frozenset({"object"}), objects=Objects({denied["required"][0]: NOTHING}))
    return with_notes(Shape(), [f"Not: {describe(reader.read(denied, expansion))}."])


def _if(reader: Reader, schema: JsonObject, expansion: Expansion) -> Shape:
    """Either both of `if` and `then`, or `else`. Without one of the two, anything may be, so it is only told."""
    condition = reader.read(schema["if"], expansion)
    then, otherwise = (reader.read(schema.get(keyword, True), expansion) for keyword in ("then", "else"))
    told_then = f"then {describe(then)}" if "then" in schema else ""
    told_else = f"else {describe(otherwise)}" if "else" in schema else ""
    if not told_then and not told_else:
        return ANYTHING
    note = f"If {describe(condition)}, {', '.join(filter(None, (told_then, told_else)))}."
    shape = union([intersect(condition, then, reader.memo), otherwise], reader.memo)
    return replace(shape, title=None, description=None, notes=(note,), exact=False)


Rule = Callable[[Reader, JsonObject, Expansion], Shape]

RULES: Mapping[str, Rule] = {
    "$ref": _reference,
    "$dynamicRef": _dynamic_reference,
    "$recursiveRef": _dynamic_reference,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
}


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
class Context:
    """What a rule needs for the schemas of properties and items.

    Attributes:
        read: gives the shape of such a schema.
        memo: steps left.
        notes: words for what no keyword says; rules add to it.
    """

    read: Callable[[Json], Shape]
    memo: Memo
    notes: list[str] = field(default_factory=list)


def types_of(keywords: JsonObject) -> frozenset[JsonType]:
    """`type`, and OpenAPI's `nullable` beside it."""
    named = keywords.get("type")
    if named is None:
        return ALL_TYPES
    types: list[Any] = named if isinstance(named, list) else [named]
    wide: frozenset[JsonType] = frozenset("number" if name == "integer" else name for name in types)
    return wide | {"null"} if keywords.get("nullable") is True else wide


def strings(keywords: JsonObject) -> Strings:
    """`minLength`, `maxLength`, `pattern`, `format`."""
    most = keywords.get("maxLength")
    return Strings(
        int(keywords.get("minLength", 0)),
        None if most is None else int(most),
        (keywords["pattern"],) if "pattern" in keywords else (),
        keywords.get("format"),
    )


def numbers(keywords: JsonObject) -> Numbers:
    """`type: integer`, the four bounds (in draft 4 the exclusive ones are booleans), `multipleOf`."""
    named = keywords.get("type")
    types = named if isinstance(named, list) else [named]
    return Numbers(
        "integer" in types and "number" not in types,
        max(_bounds(keywords, "minimum", "exclusiveMinimum"), default=None),
        min(_bounds(keywords, "maximum", "exclusiveMaximum"), key=lambda bound: (bound[0], not bound[1]), default=None),
        keywords.get("multipleOf"),
    )


def _bounds(keywords: JsonObject, inclusive: str, exclusive: str) -> list[Bound]:
    bound, strict = keywords.get(inclusive), keywords.get(exclusive)
    if isinstance(strict, bool):
        return [] if bound is None else [(bound, strict)]
    return ([] if bound is None else [(bound, False)]) + ([] if strict is None else [(strict, True)])


def arrays(keywords: JsonObject, context: Context) -> Arrays:
    """`items`, `prefixItems` and its older spelling, the counts, `uniqueItems`, `contains`, `unevaluatedItems`."""
    counts = array_counts(keywords)
    least, most = counts.min_items, counts.max_items
    items = keywords.get("items", True)
    older = isinstance(items, list)
    prefix, rest = (items, keywords.get("additionalItems", True)) if older else (keywords.get("prefixItems", []), items)
    shape = None if rest is True else context.read(rest)
    if prefix:
        first = [context.read(member) for member in prefix]
        context.notes.append(f"Items in order: {cut(', '.join(map(describe, first)), 300)}.")
        if shape is not None and shape.empty:
            most = min(len(prefix), len(prefix) if most is None else most)
        if most is not None and most <= len(prefix):
            first, shape = first[:most], NOTHING
        shape = None if shape is None else _unsaid(union([*first, shape], context.memo))
    if "contains" in keywords:
        least = max(least, _contains(keywords, context))
    if keywords.get("unevaluatedItems", True) is not True:
        context.notes.append("No items but those described.")
    return Arrays(shape, least, most, counts.unique)


def array_counts(keywords: JsonObject) -> Arrays:
    """`minItems`, `maxItems`, `uniqueItems`."""
    most = keywords.get("maxItems")
    return Arrays(
        None, int(keywords.get("minItems", 0)), None if most is None else int(most), keywords.get("uniqueItems", False)
    )


def _unsaid(shape: Shape) -> Shape:
    """Without what was put together for the reader, as it is told where it belongs."""
    return replace(shape, title=None, description=None, notes=())


def _contains(keywords: JsonObject, context: Context) -> int:
    """How many items there are at least."""
    least, most = int(keywords.get("minContains", 1)), keywords.get("maxContains")
    shape = context.read(keywords["contains"])
    if least or most is not None:
        count = count_text(least, None if most is None else int(most), "item", "items").rstrip(".")
        context.notes.append(f"{count} of this form: {describe(shape)}.")
    return least


def objects(keywords: JsonObject, context: Context) -> Objects:
    """`properties`, `required`, `additionalProperties`, `patternProperties`, `propertyNames`, the counts, the dependencies."""
    own = {name: context.read(member) for name, member in keywords.get("properties", {}).items()}
    others = _others(keywords, context)
    _tell_counts(keywords, context)
    _tell_dependencies(keywords, context)
    shape = Objects(own, tuple(keywords.get("required", ())), others)
    return _names(keywords["propertyNames"], shape, context) if "propertyNames" in keywords else shape


def _others(keywords: JsonObject, context: Context) -> Shape | None:
    """The shape of properties that are not declared by name; None: any."""
    rest = keywords.get("additionalProperties", _unevaluated(keywords, context))
    shape = None if rest is True else context.read(rest)
    patterned = keywords.get("patternProperties")
    if not patterned:
        return shape
    by_pattern = {source: context.read(member) for source, member in patterned.items()}
    told_patterns = "; ".join(f"{cut(source, 80)}: {describe(member)}" for source, member in by_pattern.items())
    context.notes.append(f"Properties named like {cut(told_patterns, 300)}.")
    return None if shape is None else _unsaid(union([*by_pattern.values(), shape], context.memo))


def _unevaluated(keywords: JsonObject, context: Context) -> Json:
    """`unevaluatedProperties`: as `additionalProperties` where only this schema declares properties, else told."""
    rest = keywords.get("unevaluatedProperties", True)
    if rest is True or not keywords.keys() & _DECLARING:
        return rest
    context.notes.append("No properties but those described.")
    return True


_DECLARING = frozenset(
    {"$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas"}
)


def _names(schema: Json, shape: Objects, context: Context) -> Objects:
    """`propertyNames`: where it lists the names, they are the properties; else told."""
    allowed = context.read(schema)
    if allowed == ANYTHING:
        return shape
    if "string" not in allowed.types:
        allowed = replace(allowed, values=())
    if allowed.values is None:
        context.notes.append(f"Property names: {describe(allowed)}.")
        return shape
    declared_names = {name: shape.at(name) for name in allowed.values if isinstance(name, str)}
    denied = {name: NOTHING for name in shape.properties if name not in declared_names}
    declared = {name: declared_names[name] for name in shape.properties if name in declared_names}
    return Objects({**declared, **declared_names, **denied}, shape.required, NOTHING)


def _tell_counts(keywords: JsonObject, context: Context) -> None:
    least, most = (keywords.get(keyword) for keyword in ("minProperties", "maxProperties"))
    if least or most is not None:
        context.notes.append(count_text(int(least or 0), None if most is None else int(most), "property", "properties"))


def _tell_dependencies(keywords: JsonObject, context: Context) -> None:
    needs = {
        **keywords.get("dependencies", {}),
        **keywords.get("dependentRequired", {}),
        **keywords.get("dependentSchemas", {}),
    }
    for name, need in needs.items():
        text = f"also {names(need)}" if isinstance(need, list) else describe(context.read(need))
        if need != []:
            context.notes.append(f"With {quoted(name)}: {text}.")
