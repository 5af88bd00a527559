"""Fills any JSON Schema (2020-12) with a value that fits it: the plainest one that can be had.

Every schema has a stream of candidates, the plainest first. What the keywords say together is worked into the candidates
as far as it is easy, and the rest (`oneOf`, `not`, `if`, …) is checked with `jsonschema`: the first candidate that passes
is taken.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, reduce
from itertools import chain, count, islice, product
from typing import Any, Final

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

from proxy.sandbox.jsontext import key_of
from proxy.sandbox.merge import Schema, merge
from proxy.sandbox.numbers import numbers
from proxy.sandbox.patterns import CHECKER, is_linear, matches
from proxy.sandbox.strings import strings

MISSING: Final = object()
"""What a hint gives when it has nothing to say."""

Hint = Callable[[str, Mapping[str, Any]], Any]
"""Property name and its schema → a value to try first, or MISSING."""

_MAX_DEPTH = 80
_MAX_NODES = 20_000
_GENEROUS_DEPTH = 3
_TRIES = 200
_POOL = 40
_NEIGHBOURS = 5

_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly"}
)
_BRANCHING = ("$ref", "anyOf", "oneOf", "if", "allOf")
_CHECKED = frozenset(
    {"not", "patternProperties", "propertyNames", "minProperties", "maxProperties", "contains", "unevaluatedProperties"}
    | {"dependentRequired", "dependentSchemas", "dependencies", "unevaluatedItems", "$dynamicRef"}
    | {*_BRANCHING}
)
_HELD_BY: Mapping[str, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "patternProperties"),
    "array": ("items", "prefixItems", "minItems", "uniqueItems", "contains"),
    "string": ("pattern", "minLength", "maxLength", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_ALL_TYPES = ("string", "integer", "boolean", "object", "array", "null", "number")


class Unfillable(Exception):
    """No value was found that fits the schema."""


class Filler:
    """Fills the parts of one schema.

    Args:
        root: the schema that references point into.
        hint: what to try first for a property.
        generous: whether optional properties are filled too, near the root.
        plain: the text for strings about which nothing is known.
    """

    def __init__(
        self, root: Mapping[str, Any], *, hint: Hint | None = None, generous: bool = True, plain: str = "sample"
    ) -> None:
        self._root = root
        self._hint = hint or (lambda name, schema: MISSING)
        self._generous = generous
        self._plain = plain
        self._nodes = 0

    def fill(self, schema: Schema) -> Any:
        """The first value that fits.

        Args:
            schema: the root or a schema inside it.

        Raises:
            Unfillable: none was found within bounds.
        """
        for value in self._values(schema, 0):
            return value
        raise Unfillable("no value fits the schema")

    def fits(self, schema: Schema, value: Any) -> bool:
        """Whether a value is valid against a schema of this root."""
        if isinstance(schema, Mapping) and _ANNOTATIONS.issuperset(schema):
            return True
        if isinstance(schema, Mapping) and "$schema" in schema:
            schema = {name: part for name, part in schema.items() if name != "$schema"}
        return bool(self._validator.evolve(schema=schema).is_valid(value))

    @cached_property
    def _validator(self) -> Any:
        # A schema that names its dialect would be checked by the library's own class for it.
        root = {name: value for name, value in self._root.items() if name != "$schema"}
        return CHECKER(root, registry=self._registry)

    @cached_property
    def _registry(self) -> Registry[Any]:
        # Nothing in it but the schema itself: no reference is ever fetched.
        registry: Registry[Any] = EMPTY_REGISTRY.with_resource("", DRAFT202012.create_resource(self._root))
        return registry

    def _values(self, schema: Schema, depth: int) -> Iterator[Any]:
        self._nodes += 1
        if self._nodes > _MAX_NODES or depth > _MAX_DEPTH:
            raise Unfillable("the schema asks for too much")
        if schema is False:
            return
        node = {} if isinstance(schema, bool) else schema
        if "const" in node:
            yield from self._fitting(node, iter([node["const"]]))
        elif "enum" in node:
            yield from self._fitting(node, iter(node["enum"]))
        elif _CHECKED.isdisjoint(node):
            yield from self._typed(node, depth)
        else:
            yield from self._fitting(node, islice(self._branches(node, depth), _TRIES))

    def _fitting(self, node: Mapping[str, Any], candidates: Iterator[Any]) -> Iterator[Any]:
        return (value for value in candidates if self.fits(node, value))

    def _branches(self, node: Mapping[str, Any], depth: int) -> Iterator[Any]:
        keyword = next((name for name in _BRANCHING if name in node), None)
        if keyword is None:
            return self._typed(node, depth)
        rest = {name: value for name, value in node.items() if name != keyword}
        match keyword:
            case "$ref":
                return self._values(merge(self._resolved(node["$ref"]), rest), depth + 1)
            case "allOf":
                joined: Schema = rest
                for part in node["allOf"]:
                    joined = merge(joined, self._without_reference(part))
                return self._values(joined, depth + 1)
            case "if":
                rest = {name: value for name, value in rest.items() if name not in ("then", "else")}
                met = merge(merge(rest, node["if"]), node.get("then", True))
                missed = merge(rest, node.get("else", True))
                return self._in_turn([met, missed], depth)
            case _:
                parts = sorted(node[keyword], key=_is_deep) if depth > _GENEROUS_DEPTH else node[keyword]
                return self._in_turn([merge(rest, self._without_reference(part)) for part in parts], depth)

    def _in_turn(self, schemas: list[Schema], depth: int) -> Iterator[Any]:
        """One candidate of each, then the next of each."""
        streams = [self._guarded(schema, depth + 1) for schema in schemas]
        while streams:
            for stream in list(streams):
                value = next(stream, MISSING)
                if value is MISSING:
                    streams.remove(stream)
                else:
                    yield value

    def _guarded(self, schema: Schema, depth: int) -> Iterator[Any]:
        # One branch that cannot be filled does not spoil the others.
        try:
            yield from self._values(schema, depth)
        except Unfillable:
            return

    def _without_reference(self, schema: Schema) -> Schema:
        seen = 0
        while isinstance(schema, Mapping) and "$ref" in schema:
            rest = {name: value for name, value in schema.items() if name != "$ref"}
            schema = merge(self._resolved(schema["$ref"]), rest)
            seen += 1
            if seen > _MAX_DEPTH:
                raise Unfillable("the schema refers to itself only")
        return schema

    def _resolved(self, reference: str) -> Schema:
        try:
            contents: Schema = self._registry.resolver("").lookup(reference).contents
        except Unresolvable as fault:
            raise Unfillable(f"the reference {reference!r} points nowhere") from fault
        return contents

    def _typed(self, node: Mapping[str, Any], depth: int) -> Iterator[Any]:
        names = _types_of(node)
        if depth > _GENEROUS_DEPTH:
            names = tuple(
                sorted(names, key=lambda name: name != "null")
            )  # deep down, nothing is plainer than something
        streams = [self._of_type(name, node, depth) for name in names]
        if len(streams) == 1:
            return streams[0]
        # Another type is as different as a value can be, so one of each comes before more of the first.
        first = [list(islice(stream, 1)) for stream in streams]
        return chain(chain.from_iterable(first), chain.from_iterable(streams))

    def _of_type(self, name: str, node: Mapping[str, Any], depth: int) -> Iterator[Any]:
        match name:
            case "string":
                return strings(node, self._plain)
            case "integer":
                return numbers(node, integer=True)
            case "number":
                return numbers(node, integer=False)
            case "boolean":
                return iter([False, True])
            case "null":
                return iter([None])
            case "array":
                return self._arrays(node, depth)
            case _:
                return self._objects(node, depth)

    # ------------------------------------------------------------ arrays

    def _arrays(self, node: Mapping[str, Any], depth: int) -> Iterator[list[Any]]:
        least, most = int(node.get("minItems", 0)), node.get("maxItems")
        if "contains" in node:
            least = max(least, int(node.get("minContains", 1)))
        wanted = max(least, 1) if self._generous and depth < _GENEROUS_DEPTH else least
        sizes = chain([wanted], range(least, wanted), count(wanted + 1))
        for size in islice(sizes, _POOL):
            if most is None or size <= most:
                yield from self._of_size(node, size, depth)

    def _of_size(self, node: Mapping[str, Any], size: int, depth: int) -> Iterator[list[Any]]:
        if size > _MAX_NODES:
            raise Unfillable("the schema asks for too much")
        unique = bool(node.get("uniqueItems"))
        head: list[Schema] = list(node.get("prefixItems", []))[:size]
        streams = [self._values(schema, depth + 1) for schema in head]
        if size > len(head):
            item: Schema = node.get("items", True)
            if "contains" in node:
                item = merge(item, self._without_reference(node["contains"]))
            streams += self._repeated(item, size - len(head), depth, unique=unique)
        yield from self._rows(streams, unique=unique)

    def _repeated(self, item: Schema, times: int, depth: int, *, unique: bool) -> list[Iterator[Any]]:
        """Streams for items of one schema: each begins a value further on, so that neighbours differ if they can."""
        stream = self._values(item, depth + 1)
        pool = list(islice(stream, times if unique else min(times, _NEIGHBOURS)))
        if not pool:
            return [iter([])]
        starts = (at % len(pool) for at in range(times))
        return [chain(pool[start:], pool[:start], stream) for start in starts]

    def _rows(self, streams: list[Iterator[Any]], *, unique: bool) -> Iterator[list[Any]]:
        """A value of each stream, then the next of each; where asked, different ones in a row."""
        seen: set[bytes] = set()
        while True:
            row: list[Any] = []
            for stream in streams:
                value = next((item for item in stream if not unique or key_of(item) not in seen), MISSING)
                if value is MISSING:
                    return
                if unique:
                    seen.add(key_of(value))
                row.append(value)
            yield row
            seen.clear()
            if not streams:
                return

    # ------------------------------------------------------------ objects

    def _objects(self, node: Mapping[str, Any], depth: int) -> Iterator[dict[str, Any]]:
        hints = self._hints(node)
        names = self._names(node, depth, hints)
        schemas = {name: self._property(node, name) for name in names}
        first: dict[str, Any] = {}
        for name, schema in schemas.items():
            value = hints[name] if name in hints else next(self._guarded(schema, depth + 1), MISSING)
            if value is not MISSING:
                first[name] = value
            elif name in node.get("required", ()):
                return
        self._add_missing(first, node, depth)
        yield first
        yield from self._variations(first, schemas, node, depth)

    def _hints(self, node: Mapping[str, Any]) -> dict[str, Any]:
        properties: Mapping[str, Schema] = node.get("properties", {})
        tried = {
            name: self._hint(name, schema)
            for name, schema in properties.items()
            if isinstance(schema, Mapping) and ("pattern" not in schema or is_linear(schema["pattern"]))
        }
        return {
            name: value for name, value in tried.items() if value is not MISSING and self.fits(properties[name], value)
        }

    def _names(self, node: Mapping[str, Any], depth: int, hints: Mapping[str, Any]) -> list[str]:
        """The properties to fill: in the order in which the schema lists them, then those that are only required."""
        required = node.get("required", ())
        generous = self._generous and depth < _GENEROUS_DEPTH
        wanted = [name for name in node.get("properties", {}) if generous or name in required or name in hints]
        names = list(dict.fromkeys([*wanted, *required]))
        depending = node.get("dependentRequired", {})
        for name in names:
            names += [other for other in depending.get(name, ()) if other not in names]
        return names

    def _property(self, node: Mapping[str, Any], name: str) -> Schema:
        properties: Mapping[str, Schema] = node.get("properties", {})
        if name in properties:
            return properties[name]
        patterns = node.get("patternProperties", {})
        matching = [schema for pattern, schema in patterns.items() if matches(pattern, name)]
        if matching:
            together: Schema = reduce(merge, matching)
            return together
        additional: Schema = node.get("additionalProperties", True)
        return additional

    def _add_missing(self, value: dict[str, Any], node: Mapping[str, Any], depth: int) -> None:
        least = int(node.get("minProperties", 0))
        fresh = self._fresh_names(node)
        while len(value) < least:
            name = next(fresh, None)
            if name is None:
                return
            schema = self._property(node, name)
            item = next(self._guarded(schema, depth + 1), MISSING)
            if item is not MISSING:
                value.setdefault(name, item)

    def _fresh_names(self, node: Mapping[str, Any]) -> Iterator[str]:
        limits: Schema = node.get("propertyNames", True)
        rule = {"type": "string", **limits} if isinstance(limits, Mapping) else {"type": "string"}
        patterns = [{"type": "string", "pattern": pattern} for pattern in node.get("patternProperties", {})]
        yield from node.get("properties", {})
        for schema in [*patterns, rule]:
            yield from islice(Filler(schema, plain="key").candidates(), _POOL)

    def candidates(self) -> Iterator[Any]:
        """The stream of values for the root."""
        return self._values(self._root, 0)

    def _variations(
        self, first: Mapping[str, Any], schemas: Mapping[str, Schema], node: Mapping[str, Any], depth: int
    ) -> Iterator[dict[str, Any]]:
        required = node.get("required", ())
        optional = [name for name in first if name not in required]
        for name in optional:
            yield {key: value for key, value in first.items() if key != name}
        if optional:
            yield {key: value for key, value in first.items() if key in required}
        named = [name for name in first if name in schemas]
        pools = [self._pool(schemas[name], first[name], depth) for name in named]
        for row in islice(product(*pools), 1, None):
            yield {**first, **dict(zip(named, row, strict=True))}

    def _pool(self, schema: Schema, first: Any, depth: int) -> list[Any]:
        others = islice(self._guarded(schema, depth + 1), _POOL)
        return [first, *(value for value in others if key_of(value) != key_of(first))]


def _types_of(node: Mapping[str, Any]) -> tuple[str, ...]:
    named = node.get("type")
    if isinstance(named, str):
        return (named,)
    if named is not None:
        # Null is the answer of someone who has nothing to say.
        return tuple(sorted(named, key=lambda name: name == "null"))
    held = tuple(name for name, keywords in _HELD_BY.items() if any(keyword in node for keyword in keywords))
    return held + tuple(name for name in _ALL_TYPES if name not in held)


def _is_deep(schema: Schema) -> bool:
    """Whether a branch may lead back up; deep down the others are better."""
    return isinstance(schema, Mapping) and not {"type", "const", "enum"}.intersection(schema)
