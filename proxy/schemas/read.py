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
"""Levels of nesting written out; what lies deeper accepts any value."""

_ANNOTATIONS = frozenset({"default", "examples", "contentEncoding", "contentMediaType", "deprecated"})


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
        """What is left for a property or an item."""
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
            TooLarge: the steps of this attempt are used up.
            SchemaTooComplex: the budget of the request is used up.
        """
        if isinstance(schema, bool):
            return ANYTHING if schema else NOTHING
        self.memo.spend()
        self._lowest = min(self._lowest, expansion.levels)
        keywords = self.document.keywords[id(schema)]
        if expansion.levels <= 0:
            types = ALL_TYPES if "$ref" in keywords else types_of(keywords)
            return with_notes(Shape(types=types), ["What is nested here is not described."])
        shape = self._own(schema, keywords, expansion)
        for keyword, rule in RULES.items():
            if keyword in keywords:
                shape = intersect(shape, rule(self, schema, keywords, expansion), self.memo)
        return shape

    def _own(self, schema: JsonObject, keywords: JsonObject, expansion: Expansion) -> Shape:
        """What the keywords say that need no other schema in place."""
        within = expansion.inside()
        context = Context(lambda member: self.read(member, within), self.memo)
        present = keywords.keys()
        shape = Shape(
            types=types_of(keywords),
            strings=strings(keywords) if present & STRING_KEYWORDS else ANYTHING.strings,
            numbers=numbers(keywords) if present & NUMBER_KEYWORDS else ANYTHING.numbers,
            arrays=arrays(keywords, context) if present & ARRAY_KEYWORDS else ANYTHING.arrays,
            objects=objects(keywords, context) if present & OBJECT_KEYWORDS else ANYTHING.objects,
            title=_text(schema, "title"),
            description=_text(schema, "description"),
            notes=(*context.notes, *_annotations(schema)) if context.notes or schema.keys() & _ANNOTATIONS else (),
            exact=not context.notes,
        )
        shape = normalized(shape)
        for values in (keywords.get("enum"), [keywords["const"]] if "const" in keywords else None):
            if values is not None:
                self.memo.spend(len(values) // 8)
                shape = intersect(shape, of_values(values), self.memo)
        return shape

    def outline(self, schema: Json) -> Shape:
        """The shape of a schema without that of its properties and items."""
        known = self._outlines.get(id(schema))
        if known is None:
            known = self._outlines[id(schema)] = self.read(schema, Expansion(levels=1, recursions=MAX_LEVELS))
        return known

    def _opened(self, target: JsonObject, reference: str) -> Shape:
        """Where a reference is not followed: any value of the types that it allows, and a note."""
        name = cut(_text(target, "title") or reference.rstrip("/#").rpartition("/")[2] or "value", 60)
        shape = Shape(types=self.outline(target).types, title=_text(target, "title") or name)
        return with_notes(shape, [f"A nested {name}, of the form given above."])

    def named(self, reference: str, target: Json, expansion: Expansion) -> Shape:
        """The shape of the schema that a reference names; the same one with the same expansion is read once."""
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


def _text(schema: JsonObject, keyword: str) -> str | None:
    value = schema.get(keyword)
    return value if isinstance(value, str) and value else None


def _annotations(schema: JsonObject) -> tuple[str, ...]:
    """Notes for what informs the reader and constrains no value."""
    examples = schema.get("examples")
    encoding, media = _text(schema, "contentEncoding"), _text(schema, "contentMediaType")
    found = (
        f"Default: {quoted(schema['default'])}." if schema.get("default") is not None else "",
        f"Examples: {', '.join(map(quoted, examples[:3]))}." if isinstance(examples, list) and examples else "",
        f"Encoding: {encoding}." if encoding else "",
        f"Media type: {media}." if media else "",
        "Deprecated." if schema.get("deprecated") is True else "",
    )
    return tuple(filter(None, found))


# ---------------------------------------------------------------- keywords whose schemas apply to the same value

Rule = Callable[[Reader, JsonObject, JsonObject, Expansion], Shape]
"""(reader, schema, its keywords, expansion) → what the keyword says."""


def _reference(reader: Reader, schema: JsonObject, keywords: JsonObject, expansion: Expansion) -> Shape:
    return reader.named(keywords["$ref"], reader.document.targets[id(schema)], expansion)


def _dynamic_reference(reader: Reader, schema: JsonObject, keywords: JsonObject, expansion: Expansion) -> Shape:
    """As `$ref`, where only one schema can be meant; otherwise a note."""
    targets = reader.document.dynamic_targets(schema)
    if len(targets) != 1:
        return with_notes(Shape(), ["A nested value, of the form given above."])
    return reader.named(keywords["$dynamicRef"], targets[0], expansion)


def _all_of(reader: Reader, _schema: JsonObject, keywords: JsonObject, expansion: Expansion) -> Shape:
    shape = ANYTHING
    for member in keywords["allOf"]:
        shape = intersect(shape, reader.read(member, expansion), reader.memo)
    return shape


def _any_of(reader: Reader, _schema: JsonObject, keywords: JsonObject, expansion: Expansion) -> Shape:
    return union([reader.read(member, expansion) for member in keywords["anyOf"]], reader.memo, keep=reader.keep_unions)


def _one_of(reader: Reader, _schema: JsonObject, keywords: JsonObject, expansion: Expansion) -> Shape:
    """As `anyOf`: a value that two of the schemas accept is accepted too."""
    shapes = [reader.read(member, expansion) for member in keywords["oneOf"]]
    shape = union(shapes, reader.memo, keep=reader.keep_unions)
    return shape if disjoint(shapes) else replace(shape, exact=False)


def _not(reader: Reader, _schema: JsonObject, keywords: JsonObject, expansion: Expansion) -> Shape:
    """Expressed where it forbids types, or one property; otherwise a note."""
    denied = keywords["not"]
    if isinstance(denied, bool):
        return NOTHING if denied else ANYTHING
    inner = reader.document.keywords[id(denied)]
    if not inner:
        return NOTHING
    if inner.keys() == {"type"}:
        named = inner["type"] if isinstance(inner["type"], list) else [inner["type"]]
        only_integers = "integer" in named and "number" not in named
        rest = ALL_TYPES - (types_of(inner) - {"number"} if only_integers else types_of(inner))
        return with_notes(Shape(types=rest), ["Not an integer."] if only_integers else [])
    if inner.keys() == {"required"} and len(inner["required"]) == 1:
        return Shape(types=frozenset({"object"}), objects=Objects({inner["required"][0]: NOTHING}))
    return with_notes(Shape(), [f"Not: {describe(reader.read(denied, expansion))}."])


def _if(reader: Reader, _schema: JsonObject, keywords: JsonObject, expansion: Expansion) -> Shape:
    """Either both of `if` and `then`, or `else`. Without one of the two any value may be accepted, so it is only a note."""
    if "then" not in keywords and "else" not in keywords:
        return ANYTHING
    condition = reader.read(keywords["if"], expansion)
    then, otherwise = (reader.read(keywords.get(keyword, True), expansion) for keyword in ("then", "else"))
    parts = [f"then {describe(then)}"] if "then" in keywords else []
    parts += [f"else {describe(otherwise)}"] if "else" in keywords else []
    shape = union([intersect(condition, then, reader.memo), otherwise], reader.memo)
    note = f"If {describe(condition)}, {', '.join(parts)}."
    return replace(shape, title=None, description=None, notes=(note,), exact=False)


RULES: Mapping[str, Rule] = {
    "$ref": _reference,
    "$dynamicRef": _dynamic_reference,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
}


# ---------------------------------------------------------------- keywords for one JSON type each

STRING_KEYWORDS = frozenset({"minLength", "maxLength", "pattern", "format"})
NUMBER_KEYWORDS = frozenset({"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
ARRAY_KEYWORDS = frozenset(
    {"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains", "unevaluatedItems"}
)
OBJECT_KEYWORDS = (
    frozenset({"properties", "required", "additionalProperties", "patternProperties", "propertyNames", "unevaluatedProperties"})
    | frozenset({"minProperties", "maxProperties", "dependentRequired", "dependentSchemas"})
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Context:
    """What a rule needs for the schemas of properties and items.

    Attributes:
        read: gives the shape of such a schema.
        memo: steps left.
        notes: what no keyword says; rules add to it.
    """

    read: Callable[[Json], Shape]
    memo: Memo
    notes: list[str] = field(default_factory=list)


def types_of(keywords: JsonObject) -> frozenset[JsonType]:
    """`type`; an integer is a number."""
    named = keywords.get("type")
    if named is None:
        return ALL_TYPES
    types: list[Any] = named if isinstance(named, list) else [named]
    return frozenset("number" if name == "integer" else name for name in types)


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
    """`type: integer`, the four bounds, `multipleOf`."""
    named = keywords.get("type")
    types = named if isinstance(named, list) else [named]
    lower: list[Bound] = [
        (keywords[name], name != "minimum") for name in ("minimum", "exclusiveMinimum") if name in keywords
    ]
    upper: list[Bound] = [
        (keywords[name], name != "maximum") for name in ("maximum", "exclusiveMaximum") if name in keywords
    ]
    return Numbers(
        "integer" in types and "number" not in types,
        max(lower, default=None),
        min(upper, key=lambda bound: (bound[0], not bound[1]), default=None),
        keywords.get("multipleOf"),
    )


def arrays(keywords: JsonObject, context: Context) -> Arrays:
    """`items`, `prefixItems`, the counts, `uniqueItems`, `contains`, `unevaluatedItems`."""
    counts = array_counts(keywords)
    least, most = counts.min_items, counts.max_items
    prefix, rest = keywords.get("prefixItems", []), keywords.get("items", True)
    shape = None if rest is True else context.read(rest)
    if prefix:
        first = [context.read(member) for member in prefix]
        context.notes.append(f"Items in order: {cut(', '.join(map(describe, first[:32])), 300)}.")
        if shape is not None and shape.empty:
            most = min(len(prefix), len(prefix) if most is None else most)
        if most is not None and most <= len(prefix):
            first, shape = first[:most], NOTHING
        shape = None if shape is None else _without_texts(union([*first, shape], context.memo))
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


def _without_texts(shape: Shape) -> Shape:
    """Without what was put together for the reader, as a note says it where it belongs."""
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
    members = keywords.get("properties", {})
    context.memo.spend(len(members) // 8)
    own = {name: context.read(member) for name, member in members.items()}
    others = _others(keywords, own, context)
    _note_counts(keywords, context)
    _note_dependencies(keywords, context)
    shape = Objects(own, tuple(keywords.get("required", ())), others)
    return _with_names(keywords["propertyNames"], shape, context) if "propertyNames" in keywords else shape


_UNIVERSAL = frozenset(
    {"", "^", "$", ".*", "^.*", ".*$", "^.*$", "^(.*)$", ".", ".+", "^.+$", "^(.+)$", r"[\s\S]*", r"^[\s\S]*$"}
)
"""Patterns that every property name matches, apart from empty ones and line breaks. Record types of generators are written with them."""


def _others(keywords: JsonObject, own: dict[str, Shape], context: Context) -> Shape | None:
    """The shape of properties that are not declared by name; None: any. Adds what every property must be to the declared ones."""
    rest = keywords.get("additionalProperties", _unevaluated(keywords, context))
    shape = None if rest is True else context.read(rest)
    by_pattern = {source: context.read(member) for source, member in keywords.get("patternProperties", {}).items()}
    universal = [by_pattern.pop(source) for source in tuple(by_pattern) if source in _UNIVERSAL]
    for index, every in enumerate(universal):
        shape = every if index == 0 or shape is None else intersect(shape, every, context.memo)
        own.update({name: intersect(member, every, context.memo) for name, member in own.items()})
    if not by_pattern:
        return shape
    text = "; ".join(f"{cut(source, 80)}: {describe(member)}" for source, member in list(by_pattern.items())[:16])
    context.notes.append(f"Properties named like {cut(text, 300)}.")
    if universal or shape is None:
        return shape  # what a pattern asks for in addition is a note
    return _without_texts(union([*by_pattern.values(), shape], context.memo))


def _unevaluated(keywords: JsonObject, context: Context) -> Json:
    """`unevaluatedProperties`: as `additionalProperties` where only this schema declares properties, otherwise a note."""
    rest = keywords.get("unevaluatedProperties", True)
    if rest is True or not keywords.keys() & _DECLARING:
        return rest
    context.notes.append("No properties but those described.")
    return True


_DECLARING = frozenset({"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas"})


def _with_names(schema: Json, shape: Objects, context: Context) -> Objects:
    """`propertyNames`: where it lists the names, they are the properties; otherwise a note."""
    allowed = context.read(schema)
    if allowed == ANYTHING:
        return shape
    if "string" not in allowed.types:
        allowed = replace(allowed, values=())
    if allowed.values is None:
        context.notes.append(f"Property names: {describe(allowed)}.")
        return shape
    allowed_names = {name: shape.at(name) for name in allowed.values if isinstance(name, str)}
    denied = {name: NOTHING for name in shape.properties if name not in allowed_names}
    declared = {name: allowed_names[name] for name in shape.properties if name in allowed_names}
    return Objects({**declared, **allowed_names, **denied}, shape.required, NOTHING)


def _note_counts(keywords: JsonObject, context: Context) -> None:
    least, most = (keywords.get(keyword) for keyword in ("minProperties", "maxProperties"))
    if least or most is not None:
        context.notes.append(count_text(int(least or 0), None if most is None else int(most), "property", "properties"))


def _note_dependencies(keywords: JsonObject, context: Context) -> None:
    for name, need in keywords.get("dependentRequired", {}).items():
        if need:
            context.notes.append(f"With {quoted(name)}: also {names(need)}.")
    for name, member in keywords.get("dependentSchemas", {}).items():
        context.notes.append(f"With {quoted(name)}: {describe(context.read(member))}.")
