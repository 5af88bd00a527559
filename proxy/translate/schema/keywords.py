"""Reading a schema as a shape: one rule a keyword, always toward the same values or more. `docs/schemas.md` is this file as a table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from proxy.translate.schema.document import Document
from proxy.translate.schema.merge import both, with_notes
from proxy.translate.schema.notes import cut, told, words
from proxy.translate.schema.parts import (
    ARRAY_KEYWORDS,
    NUMBER_KEYWORDS,
    OBJECT_KEYWORDS,
    STRING_KEYWORDS,
    Inside,
    arrays,
    kinds,
    numbers,
    objects,
    strings,
)
from proxy.translate.schema.shape import ALL_KINDS, ANYTHING, NOTHING, Objects, Shape, listed, settled
from proxy.translate.schema.unions import any_of, disjoint
from proxy.translate.schema.values import Json, Kind
from proxy.translate.schema.work import Work

JsonObject = dict[str, Json]

MAX_LEVELS = 48
"""Levels of nesting written out; what lies deeper is opened."""

_ANNOTATIONS = frozenset(
    {"title", "description", "$comment", "default", "examples", "deprecated", "readOnly", "writeOnly"}
)
_ASIDES = frozenset({"default", "examples", "contentEncoding", "contentMediaType", "deprecated"})


@dataclass(frozen=True, slots=True)
class Reach:
    """How far nesting and references are still followed.

    Attributes:
        levels: levels of nesting.
        loops: references to definitions that contain themselves.
        hops: other references; None: any number.
    """

    levels: int
    loops: int
    hops: int | None = None

    def inside(self) -> "Reach":
        """The reach of a property or an item."""
        return Reach(self.levels - 1, self.loops, self.hops)


@dataclass(slots=True)
class Reader:
    """Reads the schemas of one document.

    Attributes:
        document: where they stand.
        keep_unions: leave `anyOf` where it says more than one shape can.
        work: steps left.
    """

    document: Document
    keep_unions: bool
    work: Work
    _known: dict[tuple[int, int, int | None], tuple[Shape, int]] = field(default_factory=dict)
    _outlines: dict[int, Shape] = field(default_factory=dict)
    _lowest: int = MAX_LEVELS

    def read(self, schema: Json, reach: Reach) -> Shape:
        """The shape of a schema: what all its keywords say together.

        Raises:
            TooMuchWork: the steps are used up.
        """
        if isinstance(schema, bool):
            return ANYTHING if schema else NOTHING
        self.work.spend()
        self._lowest = min(self._lowest, reach.levels)
        if reach.levels <= 0:
            return with_notes(Shape(kinds=_named_kinds(schema)), ["What is nested here is not told."])
        said = self.document.dialect.said(schema)
        shape = self._own(schema, said, reach)
        for keyword, rule in RULES.items():
            if keyword in said:
                shape = both(shape, rule(self, schema, reach), self.work)
        return shape

    def _own(self, schema: JsonObject, said: JsonObject, reach: Reach) -> Shape:
        """What the keywords say that need no other schema in place."""
        within = reach.inside()
        inside = Inside(lambda member: self.read(member, within), self.work)
        keys = said.keys()
        shape = Shape(
            kinds=kinds(said),
            strings=strings(said) if keys & STRING_KEYWORDS else ANYTHING.strings,
            numbers=numbers(said) if keys & NUMBER_KEYWORDS else ANYTHING.numbers,
            arrays=arrays(said, inside) if keys & ARRAY_KEYWORDS else ANYTHING.arrays,
            objects=objects(said, inside) if keys & OBJECT_KEYWORDS else ANYTHING.objects,
            title=_text(schema, "title"),
            description=_text(schema, "description"),
            notes=(*inside.lost, *_asides(schema)) if inside.lost or schema.keys() & _ASIDES else (),
            exact=not inside.lost,
        )
        shape = settled(shape)
        for values in (said.get("enum"), [said["const"]] if "const" in said else None):
            if values is not None:
                shape = both(shape, listed(tuple(values)), self.work)
        return shape

    def outline(self, schema: Json) -> Shape:
        """The shape of a schema without that of its properties and items."""
        known = self._outlines.get(id(schema))
        if known is None:
            known = self._outlines[id(schema)] = self.read(schema, Reach(levels=1, loops=MAX_LEVELS))
        return known

    def _opened(self, target: JsonObject, reference: str) -> Shape:
        """Where a reference is not followed: any value of the types that it allows, and a note."""
        name = _name(reference, target)
        shape = Shape(kinds=self.outline(target).kinds, title=_text(target, "title") or name)
        return with_notes(shape, [f"A nested {name}, of the form given above."])

    def named(self, reference: str, target: Json, reach: Reach) -> Shape:
        """The shape of the schema that a reference names; the same one at the same reach is read once."""
        if isinstance(target, bool):
            return self.read(target, reach)
        loops, hops = reach.loops, reach.hops
        if id(target) in self.document.recursive:
            loops -= 1
        elif hops is not None:
            hops -= 1
        if loops < 0 or hops == -1:
            return self._opened(target, reference)
        known = self._known.get((id(target), loops, hops))
        if known and known[1] < reach.levels:
            self._lowest = min(self._lowest, reach.levels - known[1])
            return known[0]
        outer, self._lowest = self._lowest, reach.levels
        shape = self.read(target, Reach(reach.levels, loops, hops))
        if self._lowest > 0:  # nothing in it was cut off for lack of levels, so it serves wherever as many are left
            self._known[id(target), loops, hops] = (shape, reach.levels - self._lowest)
        self._lowest = min(outer, self._lowest)
        return shape


def _named_kinds(schema: JsonObject) -> frozenset[Kind]:
    return ALL_KINDS if "$ref" in schema else kinds(schema)


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
                f"Default: {told(schema['default'])}." if schema.get("default") is not None else "",
                f"Examples: {', '.join(map(told, examples[:3]))}." if isinstance(examples, list) and examples else "",
                f"Encoding: {encoding}." if (encoding := _text(schema, "contentEncoding")) else "",
                f"Media type: {media}." if (media := _text(schema, "contentMediaType")) else "",
                "Deprecated." if schema.get("deprecated") is True else "",
            ),
        )
    )


# ---------------------------------------------------------------- keywords whose schemas judge the same value


def _reference(reader: Reader, schema: JsonObject, reach: Reach) -> Shape:
    return reader.named(schema["$ref"], reader.document.targets[id(schema)], reach)


def _dynamic_reference(reader: Reader, schema: JsonObject, reach: Reach) -> Shape:
    """As `$ref`, where only one schema can be meant; else told."""
    target = reader.document.dynamic.get(id(schema))
    if target is None:
        return with_notes(Shape(), ["A nested value, of the form given above."])
    return reader.named(schema.get("$dynamicRef", "#"), target, reach)


def _all_of(reader: Reader, schema: JsonObject, reach: Reach) -> Shape:
    shape = ANYTHING
    for member in schema["allOf"]:
        shape = both(shape, reader.read(member, reach), reader.work)
    return shape


def _any_of(reader: Reader, schema: JsonObject, reach: Reach) -> Shape:
    return any_of([reader.read(member, reach) for member in schema["anyOf"]], reader.work, keep=reader.keep_unions)


def _one_of(reader: Reader, schema: JsonObject, reach: Reach) -> Shape:
    """As `anyOf`: a value that two of the schemas take is taken too."""
    shapes = [reader.read(member, reach) for member in schema["oneOf"]]
    union = any_of(shapes, reader.work, keep=reader.keep_unions)
    return union if disjoint(shapes) else replace(union, exact=False)


def _not(reader: Reader, schema: JsonObject, reach: Reach) -> Shape:
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
        rest = ALL_KINDS - (kinds(denied) - {"number"} if only_integers else kinds(denied))
        return with_notes(Shape(kinds=rest), ["Not an integer."] if only_integers else [])
    if keywords == {"required"} and len(denied["required"]) == 1:
        return Shape(kinds=frozenset({"object"}), objects=Objects({denied["required"][0]: NOTHING}))
    return with_notes(Shape(), [f"Not: {words(reader.read(denied, reach))}."])


def _if(reader: Reader, schema: JsonObject, reach: Reach) -> Shape:
    """Either both of `if` and `then`, or `else`. Without one of the two, anything may be, so it is only told."""
    condition = reader.read(schema["if"], reach)
    then, otherwise = (reader.read(schema.get(keyword, True), reach) for keyword in ("then", "else"))
    told_then = f"then {words(then)}" if "then" in schema else ""
    told_else = f"else {words(otherwise)}" if "else" in schema else ""
    if not told_then and not told_else:
        return ANYTHING
    note = f"If {words(condition)}, {', '.join(filter(None, (told_then, told_else)))}."
    union = any_of([both(condition, then, reader.work), otherwise], reader.work)
    return replace(union, title=None, description=None, notes=(note,), exact=False)


Rule = Callable[[Reader, JsonObject, Reach], Shape]

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
