"""Reading a schema as a shape: one rule a keyword, always toward the same values or more. `docs/schemas.md` is this file as a table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.schemas.describe import count_text, cut, describe, names, quoted, sentence
from proxy.schemas.document import Document
from proxy.schemas.shapes import (
    ALL_TYPES,
    ANY_OBJECT,
    ANYTHING,
    NOTHING,
    Objects,
    Shape,
    intersect,
    normalized,
    of_values,
    with_note,
)
from proxy.schemas.unions import union
from proxy.schemas.values import Json, JsonObject, JsonType, Memo

MAX_LEVELS = 48
"""Levels of nesting written out; what lies deeper accepts any value."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """How many levels of nesting, references to definitions that contain themselves, and other references (None: any number) are still
    followed.
    """

    levels: int
    recursions: int
    references: int | None = None


@dataclass(slots=True)
class Reader:
    """Reads the schemas of one document; with `keep_unions` leaves `anyOf` where it says more than one shape can."""

    document: Document
    keep_unions: bool
    memo: Memo
    _known: dict[tuple[int, int, int | None], tuple[Shape, int]] = field(default_factory=dict)
    _outlines: dict[int, Shape] = field(default_factory=dict)
    _lowest: int = MAX_LEVELS

    def read(self, schema: Json, expansion: Expansion) -> Shape:
        """The shape of a schema: what all its keywords say together. Raises as `Memo.spend`."""
        if isinstance(schema, bool):
            return ANYTHING if schema else NOTHING
        self.memo.spend()
        self._lowest = min(self._lowest, expansion.levels)
        keywords = self.document.keywords[id(schema)]
        if expansion.levels <= 0:
            types = ALL_TYPES if "$ref" in keywords else types_of(keywords)
            return with_note(Shape(types=types), "What is nested here is not described.")
        inside = Expansion(expansion.levels - 1, expansion.recursions, expansion.references)
        parts = _Parts(lambda member: self.read(member, inside), self.memo)
        bounds = bounds_from(keywords)
        shape = Shape(
            types=types_of(keywords),
            bounds=bounds,
            items=parts.items(keywords, bounds),
            objects=parts.objects(keywords) if keywords.keys() & _OBJECT_KEYWORDS else ANY_OBJECT,
            title=_text(schema, "title"),
            description=_text(schema, "description"),
            notes=(*parts.notes, *_annotations(schema)),
        )
        shape = normalized(shape)
        for values in (keywords.get("enum"), [keywords["const"]] if "const" in keywords else None):
            if values is not None:
                self.memo.spend(len(values) // 8)
                shape = intersect(shape, of_values(values), self.memo)
        for other in self._in_place(schema, keywords, expansion):
            shape = intersect(shape, other, self.memo)
        return shape

    def _in_place(self, schema: JsonObject, keywords: JsonObject, expansion: Expansion) -> Iterator[Shape]:
        """What each keyword says whose schemas apply to the same value."""
        if "$ref" in keywords:
            yield self._named(schema["$ref"], keywords["$ref"], expansion)
        if "$dynamicRef" in keywords:
            targets = self.document.dynamic_targets(*keywords["$dynamicRef"])
            if len(targets) == 1:
                yield self._named(schema.get("$dynamicRef", "#"), targets[0], expansion)
            else:
                yield with_note(ANYTHING, "A nested value, of the form given above.")
        for member in keywords.get("allOf", ()):
            yield self.read(member, expansion)
        for keyword in ("anyOf", "oneOf"):
            if keyword in keywords:
                shapes = [self.read(member, expansion) for member in keywords[keyword]]
                yield union(shapes, self.memo, keep=self.keep_unions)  # also what two members of `oneOf` accept
        if "not" in keywords:
            yield self._not(keywords["not"], expansion)
        if "then" in keywords or "else" in keywords:
            yield self._if(keywords, expansion)

    def _not(self, denied: Json, expansion: Expansion) -> Shape:
        """Expressed where it forbids types, or one property; otherwise a note."""
        if isinstance(denied, bool):
            return NOTHING if denied else ANYTHING
        inner = self.document.keywords[id(denied)]
        if not inner:
            return NOTHING
        if inner.keys() == {"type"}:
            only_integers = "integer" in bounds_from(inner)
            rest = ALL_TYPES - (types_of(inner) - {"number"} if only_integers else types_of(inner))
            return with_note(Shape(types=rest), "Not an integer.") if only_integers else Shape(types=rest)
        if inner.keys() == {"required"} and len(inner["required"]) == 1:
            return Shape(types=frozenset({"object"}), objects=Objects({inner["required"][0]: NOTHING}))
        return with_note(ANYTHING, f"Not: {describe(self.read(denied, expansion))}.")

    def _if(self, keywords: JsonObject, expansion: Expansion) -> Shape:
        """Either both of `if` and `then`, or `else`. Without one of the two any value may be accepted, so it is only a note."""
        condition = self.read(keywords["if"], expansion)
        then, otherwise = (self.read(keywords.get(keyword, True), expansion) for keyword in ("then", "else"))
        parts = [f"then {describe(then)}"] if "then" in keywords else []
        parts += [f"else {describe(otherwise)}"] if "else" in keywords else []
        shape = union([intersect(condition, then, self.memo), otherwise], self.memo)
        note = f"If {describe(condition)}, {', '.join(parts)}."
        return replace(shape, title=None, description=None, notes=(note,))

    def outline(self, schema: Json) -> Shape:
        """The shape of a schema without that of its properties and items."""
        known = self._outlines.get(id(schema))
        if known is None:
            known = self._outlines[id(schema)] = self.read(schema, Expansion(levels=1, recursions=MAX_LEVELS))
        return known

    def _named(self, reference: str, target: Json, expansion: Expansion) -> Shape:
        """The shape of the schema that a reference names; the same one with the same expansion is read once."""
        if isinstance(target, bool):
            return self.read(target, expansion)
        recursions, references = expansion.recursions, expansion.references
        if id(target) in self.document.recursive:
            recursions -= 1
        elif references is not None:
            references -= 1
        if recursions < 0 or references == -1:  # not followed: any value of its types
            title = _text(target, "title")
            name = cut(title or reference.rstrip("/#").rpartition("/")[2] or "value", 60)
            shape = Shape(types=self.outline(target).types, title=title or name)
            return with_note(shape, f"A nested {name}, of the form given above.")
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


_OBJECT_KEYWORDS = (
    frozenset({"properties", "required", "additionalProperties", "patternProperties", "propertyNames", "unevaluatedProperties"})
    | frozenset({"minProperties", "maxProperties", "dependentRequired", "dependentSchemas"})
)  # fmt: skip


def types_of(keywords: JsonObject) -> frozenset[JsonType]:
    """`type`; an integer is a number."""
    if "type" not in keywords:
        return ALL_TYPES
    return frozenset("number" if name == "integer" else name for name in keywords["type"])


def bounds_from(keywords: JsonObject) -> dict[str, Any]:
    """The bounds among the keywords of a schema."""
    bounds: dict[str, Any] = {}
    for keyword, value in keywords.items():
        match keyword:
            case "minLength" | "minItems" if value > 0:
                bounds[keyword] = int(value)
            case "maxLength" | "maxItems":
                bounds[keyword] = int(value)
            case "pattern":
                bounds[keyword] = (value,)
            case "format" | "multipleOf":
                bounds[keyword] = value
            case "uniqueItems" if value:
                bounds[keyword] = True
            case "type" if "integer" in value and "number" not in value:
                bounds["integer"] = True
            case "minimum" | "exclusiveMinimum":
                bound = (value, keyword != "minimum")
                bounds["minimum"] = max(bound, bounds.get("minimum", bound))
            case "maximum" | "exclusiveMaximum":
                bound = (value, keyword == "maximum")
                bounds["maximum"] = min(bound, bounds.get("maximum", bound))
    return bounds


_UNIVERSAL = frozenset(
    {"", "^", "$", ".*", "^.*", ".*$", "^.*$", "^(.*)$", ".", ".+", "^.+$", "^(.+)$", r"[\s\S]*", r"^[\s\S]*$"}
)
"""Patterns that every property name matches, apart from empty ones and line breaks. Record types of generators are written with them."""
_DECLARING = frozenset({"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas"})
"""Keywords whose schemas may declare properties of the same value."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """Reads what a schema says of its items and properties, whose shapes `read` gives; adds to `notes` what no keyword says."""

    read: Callable[[Json], Shape]
    memo: Memo
    notes: list[str] = field(default_factory=list)

    def items(self, keywords: JsonObject, bounds: dict[str, Any]) -> Shape | None:
        """`items`, `prefixItems`, `contains`, `unevaluatedItems`; adds what they say of the number of items to the bounds."""
        prefix, rest = keywords.get("prefixItems", []), keywords.get("items", True)
        shape = None if rest is True else self.read(rest)
        if prefix:
            first = [self.read(member) for member in prefix]
            self.notes.append(f"Items in order: {cut(', '.join(map(describe, first[:32])), 300)}.")
            if shape is not None and shape.empty:
                bounds["maxItems"] = min(len(prefix), bounds.get("maxItems", len(prefix)))
            if bounds.get("maxItems", len(prefix) + 1) <= len(prefix):
                first, shape = first[: bounds["maxItems"]], NOTHING
            shape = None if shape is None else _without_texts(union([*first, shape], self.memo))
        if "contains" in keywords:
            least, most = int(keywords.get("minContains", 1)), keywords.get("maxContains")
            contained = self.read(keywords["contains"])
            if count := count_text(least, most, "{} item"):
                self.notes.append(sentence(f"{count} of this form: {describe(contained)}"))
            if least > bounds.get("minItems", 0):
                bounds["minItems"] = least
        if keywords.get("unevaluatedItems", True) is not True:
            self.notes.append("No items but those described.")
        return shape

    def objects(self, keywords: JsonObject) -> Objects:
        """`properties`, `required`, `additionalProperties`, `patternProperties`, `propertyNames`, the counts, the dependencies."""
        members = keywords.get("properties", {})
        self.memo.spend(len(members) // 8)
        own = {name: self.read(member) for name, member in members.items()}
        others = self._others(keywords, own)
        if count := count_text(keywords.get("minProperties", 0), keywords.get("maxProperties"), "{} property"):
            self.notes.append(sentence(count))
        for name, need in keywords.get("dependentRequired", {}).items():
            if need:
                self.notes.append(f"With {quoted(name)}: also {names(need)}.")
        for name, member in keywords.get("dependentSchemas", {}).items():
            self.notes.append(f"With {quoted(name)}: {describe(self.read(member))}.")
        shape = Objects(own, tuple(keywords.get("required", ())), others)
        return self._with_names(keywords["propertyNames"], shape) if "propertyNames" in keywords else shape

    def _others(self, keywords: JsonObject, own: dict[str, Shape]) -> Shape | None:
        """The shape of properties that are not declared by name; None: any. Adds what every property must be to the declared ones."""
        rest = keywords.get("unevaluatedProperties", True)
        if rest is not True and keywords.keys() & _DECLARING:
            self.notes.append("No properties but those described.")
            rest = True
        rest = keywords.get("additionalProperties", rest)
        shape = None if rest is True else self.read(rest)
        by_pattern = {source: self.read(member) for source, member in keywords.get("patternProperties", {}).items()}
        universal = [by_pattern.pop(source) for source in tuple(by_pattern) if source in _UNIVERSAL]
        for index, every in enumerate(universal):
            shape = every if index == 0 or shape is None else intersect(shape, every, self.memo)
            own.update({name: intersect(member, every, self.memo) for name, member in own.items()})
        if not by_pattern:
            return shape
        text = "; ".join(f"{cut(source, 80)}: {describe(member)}" for source, member in list(by_pattern.items())[:16])
        self.notes.append(f"Properties named like {cut(text, 300)}.")
        if universal or shape is None:
            return shape  # what a pattern asks for in addition is a note
        return _without_texts(union([*by_pattern.values(), shape], self.memo))

    def _with_names(self, schema: Json, shape: Objects) -> Objects:
        """`propertyNames`: where it lists the names, they are the properties; otherwise a note."""
        allowed = self.read(schema)
        if allowed == ANYTHING:
            return shape
        if "string" not in allowed.types:
            allowed = replace(allowed, values=())
        if allowed.values is None:
            self.notes.append(f"Property names: {describe(allowed)}.")
            return shape
        allowed_names = {name: shape.at(name) for name in allowed.values if isinstance(name, str)}
        denied = {name: NOTHING for name in shape.properties if name not in allowed_names}
        declared = {name: allowed_names[name] for name in shape.properties if name in allowed_names}
        return Objects({**declared, **allowed_names, **denied}, shape.required, NOTHING)


def _without_texts(shape: Shape) -> Shape:
    """Without what was put together for the reader, as a note says it where it belongs."""
    return replace(shape, title=None, description=None, notes=())
