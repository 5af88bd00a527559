"""A schema read once: its form checked, its references resolved, its cycles known.

References are resolved here for good: later readers of the document follow `targets` and need no base URI. Nothing is ever
fetched, as the registry of `referencing` holds the document alone. All walks use a list of what is left to do, not the call stack.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import SchemaResource

from proxy.schemas.drafts import IN_PLACE, LATEST, Draft, check_forms, draft_named, subschemas
from proxy.schemas.values import Json, JsonObject, Path, SchemaError, SchemaLimits

_MAY_BE_FALSE = frozenset({"additionalProperties", "additionalItems", "unevaluatedProperties", "unevaluatedItems"})
DYNAMIC = ("$dynamicRef", "$recursiveRef")


@dataclass(frozen=True, slots=True)
class Document:
    """A well-formed schema. It knows its parts by their id(), so a copy of it is itself.

    Attributes:
        root: the schema. Ids and `$schema` are taken out: they would send the `jsonschema` library another way.
        draft: its draft.
        targets: id() of a schema with a `$ref` → the schema it names, for all schemas that a value can expansion.
        dynamic: the same for `$dynamicRef` and `$recursiveRef`; empty where several schemas are bundled, as what they name then
            depends on the way a value was reached.
        recursive: id() of the named schemas that contain themselves.
        patterned: some schema names properties by `patternProperties`.
    """

    root: Json
    draft: Draft
    targets: Mapping[int, Json]
    dynamic: Mapping[int, Json]
    recursive: frozenset[int]
    patterned: bool

    def __deepcopy__(self, _memo: object) -> "Document":
        return self


def read_document(data: bytes, limits: SchemaLimits) -> Document:
    """Read a schema from JSON.

    Raises:
        SchemaError: it is malformed, refers to what is not there, means nothing, or is over a limit.
    """
    root = json.loads(data)
    if isinstance(root, bool):
        return Document(root, LATEST, {}, {}, frozenset(), False)
    if not isinstance(root, dict):
        raise SchemaError("expected a JSON Schema (an object or a boolean)")
    places, drafts = _places(root, limits)
    only = drafts.pop() if len(drafts) == 1 and "$schema" not in root else LATEST
    draft = draft_named(root.get("$schema")) or only
    survey = _Survey(draft, places, limits)
    survey.look_at_all(root, _resolver(root, draft))
    survey.follow(root)
    _refuse_empty_loops(survey)
    named = {id(target) for target in (*survey.targets.values(), *survey.dynamic.values())}
    bundled = survey.strip_ids() > 1
    return Document(
        root,
        draft,
        survey.targets,
        {} if bundled else survey.dynamic,
        on_loops(survey.inner) & named,
        survey.patterned,
    )


def _places(root: JsonObject, limits: SchemaLimits) -> tuple[dict[int, Path], set[Draft]]:
    """Where each object stands, and the drafts named in them; refuses what nests too deep and numbers that JSON does not have."""
    places: dict[int, Path] = {}
    drafts: set[Draft] = set()
    left: list[tuple[Json, Path]] = [(root, ())]
    while left:
        value, place = left.pop()
        if len(place) > limits.max_depth:
            raise SchemaError(f"the schema is nested more than {limits.max_depth} levels deep", place[:8])
        if isinstance(value, dict):
            places[id(value)] = place
            draft = draft_named(value.get("$schema"))
            if draft:
                drafts.add(draft)
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(item, dict | list):
                left.append((item, (*place, step)))
            elif isinstance(item, float) and not math.isfinite(item):
                raise SchemaError("expected a number that JSON can hold", (*place, step))
    return places, drafts


def _resolver(root: JsonObject, draft: Draft) -> Any:
    if not isinstance(root.get("id", ""), str):
        del root["id"]
    resource: SchemaResource = draft.spec.create_resource(root)
    try:
        return Registry().resolver_with_root(resource)
    except (ValueError, AttributeError, TypeError):
        raise SchemaError("expected a URI", ("$id",)) from None


@dataclass(slots=True)
class _Survey:
    """Looks at every schema of the document, and resolves the references of those that a value can expansion."""

    draft: Draft
    places: dict[int, Path]
    limits: SchemaLimits
    seen: dict[int, tuple[JsonObject, Any]] = field(default_factory=dict)
    """id() of each schema looked at → the schema, and the resolver of references that stand in it."""
    targets: dict[int, Json] = field(default_factory=dict)
    dynamic: dict[int, Json] = field(default_factory=dict)
    inner: dict[int, list[int]] = field(default_factory=dict)
    """Schema that a value can expansion → the schemas it leads to."""
    in_place: dict[int, list[int]] = field(default_factory=dict)
    """The same, only those that checker the same value."""
    properties: int = 0
    patterned: bool = False

    def look_at_all(self, root: JsonObject, resolver: Any) -> None:
        """Check the form of a schema and of all schemas in it, definitions too."""
        left = [(root, resolver)]
        while left:
            schema, resolver = left.pop()
            if id(schema) in self.seen:
                continue
            self._inspect(schema)
            here = self._inside(schema, resolver)
            self.seen[id(schema)] = (schema, here)
            left.extend((member, here) for _, member in self._members(schema) if isinstance(member, dict))
            self._spell_out_false(schema)

    def _spell_out_false(self, schema: JsonObject) -> None:
        """Write `false` as `{"not": {}}`: the library quotes the whole value where it meets `false`."""
        false = [
            place
            for place, member in subschemas(schema, self.draft)
            if member is False and place[0] not in _MAY_BE_FALSE
        ]
        for place in false:
            spelled: JsonObject = {"not": {}}
            inner: Json = schema
            for step in place[:-1]:
                inner = inner[step]
            inner[place[-1]] = spelled
            self.places[id(spelled)] = self.places[id(spelled["not"])] = (*self._place(schema), *place)

    def _place(self, schema: JsonObject) -> Path:
        return self.places[id(schema)]

    def _inspect(self, schema: JsonObject) -> None:
        place = self._place(schema)
        named = draft_named(schema.pop("$schema", None))
        if named not in {None, self.draft} and {"$id", "id"} & schema.keys():
            raise SchemaError("expected the same draft of JSON Schema all through", (*place, "$schema"))
        if not isinstance(schema.get("id", ""), str):
            del schema["id"]  # in draft 4, a property whose `properties` was forgotten
        check_forms(schema, self.draft, place)
        for keyword in ("anyOf", "oneOf", "allOf"):
            if len(schema.get(keyword, ())) > self.limits.max_alternatives:
                raise SchemaError(f"more than {self.limits.max_alternatives} alternatives", (*place, keyword))
        self.properties += len(schema.get("properties", ()))
        if self.properties > self.limits.max_properties:
            raise SchemaError(f"the schema declares more than {self.limits.max_properties} properties", place)
        self.patterned = self.patterned or "patternProperties" in schema

    def _inside(self, schema: JsonObject, resolver: Any) -> Any:
        """The resolver of references in a schema, which may have an id of its own."""
        place = self._place(schema)
        if not place or not {"$id", "id"} & schema.keys():
            return resolver
        try:
            return resolver.in_subresource(self.draft.spec.create_resource(schema))
        except (ValueError, AttributeError, TypeError):
            raise SchemaError("expected a URI", (*place, "$id")) from None

    def _members(self, schema: JsonObject) -> Iterator[tuple[str, Json]]:
        try:
            for step, member in subschemas(schema, self.draft):
                yield str(step[0]), member
        except SchemaError as error:
            raise SchemaError(error.message, (*self._place(schema), *error.path)) from None

    def follow(self, root: JsonObject) -> None:
        """Resolve the references of all schemas that a value can expansion from the root."""
        left = [root]
        while left:
            schema = left.pop()
            if id(schema) in self.inner:
                continue
            self.inner[id(schema)], self.in_place[id(schema)] = [], []
            for member, in_place in self._led_to(schema):
                if isinstance(member, dict):
                    self.inner[id(schema)].append(id(member))
                    if in_place:
                        self.in_place[id(schema)].append(id(member))
                    left.append(member)

    def _led_to(self, schema: JsonObject) -> Iterable[tuple[Json, bool]]:
        """(schema, whether it judges the same value)"""
        keywords = self.draft.keywords(schema)
        if "$ref" in schema:
            target = self.targets[id(schema)] = self._resolved(schema, "$ref")
            yield target, True
        for keyword in DYNAMIC:
            if keyword in keywords:
                target = self.dynamic[id(schema)] = self._resolved(schema, keyword)
                yield target, True
        for keyword, member in self._members(schema):
            if keyword in keywords:
                yield member, keyword in IN_PLACE

    def _resolved(self, schema: JsonObject, keyword: str) -> Json:
        place, reference = (*self._place(schema), keyword), schema[keyword]
        _, resolver = self.seen[id(schema)]
        uri, _, fragment = reference.partition("#")
        try:
            if fragment.startswith("/"):
                found = resolver.lookup(f"{uri}#")
                target = _pointed_at(found.contents, fragment)
            else:
                found = resolver.lookup(reference)
                target = found.contents
        except (Unresolvable, ValueError, LookupError, AttributeError, TypeError):
            raise SchemaError(_unresolved(reference), place) from None
        if not isinstance(target, bool) and id(target) not in self.places:
            raise SchemaError(f"expected a reference to a schema, and {_shown(reference)} is none", place)
        if isinstance(target, dict) and id(target) not in self.seen:
            self.look_at_all(target, found.resolver)
        return target

    def strip_ids(self) -> int:
        """Take out all ids; how many schemas could be told apart by one, with the root."""
        bundles = 1
        for schema, _ in self.seen.values():
            for keyword in ("$id", "id"):
                own = schema.pop(keyword, "#")
                bundles += bool(self._place(schema)) and not own.startswith("#")
        return bundles


def _pointed_at(value: Json, pointer: str) -> Json:
    """The value at a JSON pointer in a URI fragment (RFC 6901)."""
    for token in unquote(pointer).split("/")[1:]:
        if isinstance(value, list) and not token.isdecimal():
            raise LookupError(token)
        value = value[int(token)] if isinstance(value, list) else value[token.replace("~1", "/").replace("~0", "~")]
    return value


def _unresolved(reference: str) -> str:
    if reference.startswith("#"):
        return f"{_shown(reference)} is not in the schema"
    return f"{_shown(reference)} is outside the schema, and other documents are not fetched: put it under `$defs`"


def _shown(reference: str) -> str:
    return json.dumps(reference if len(reference) <= 120 else reference[:119] + "…", ensure_ascii=False)


def _refuse_empty_loops(survey: _Survey) -> None:
    recursions = on_loops(survey.in_place)
    if recursions:
        place = min((survey.places[schema] for schema in recursions), key=lambda steps: (len(steps), str(steps)))
        raise SchemaError("the schema refers back to itself without going into a property or an item", place)


Graph = Mapping[int, Sequence[int]]
"""Node → the nodes it leads to."""


def on_loops(graph: Graph) -> frozenset[int]:
    """The nodes on recursions, and those between two recursions: what is left when dead ends are taken away from both sides."""
    return frozenset(_without_dead_ends(_reversed(_without_dead_ends(graph))))


def _reversed(graph: Graph) -> dict[int, list[int]]:
    turned: dict[int, list[int]] = {node: [] for node in graph}
    for node, others in graph.items():
        for other in others:
            if other in turned:
                turned[other].append(node)
    return turned


def _without_dead_ends(graph: Graph) -> Graph:
    """The graph without the nodes from which every way ends."""
    entering = _reversed(graph)
    ways = {node: sum(other in graph for other in others) for node, others in graph.items()}
    ends = [node for node, count in ways.items() if count == 0]
    while ends:
        node = ends.pop()
        del ways[node]
        for other in entering[node]:
            ways[other] -= 1
            if ways[other] == 0:
                ends.append(other)
    return {node: graph[node] for node in ways}
