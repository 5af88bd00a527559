"""A schema read once: its form checked, its references resolved, its cycles known.

References are resolved here for good: later readers of the document follow `targets` and need no base URI. Nothing is ever fetched:
beside the schema itself only the metaschemas can be referred to, which the `jsonschema-specifications` package brings. All walks use a
list of what is left to do, not the call stack.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urldefrag, urljoin

from jsonschema_specifications import REGISTRY as METASCHEMAS  # type: ignore[import-untyped]

from proxy.schemas.drafts import IN_PLACE, LATEST, Draft, check_forms, draft_named, normalized_keywords, subschemas
from proxy.schemas.patterns import pattern
from proxy.schemas.values import Budget, Json, JsonObject, Path, SchemaError, SchemaLimits


@dataclass(frozen=True, slots=True)
class DynamicTarget:
    """What a `$dynamicRef` or `$recursiveRef` names.

    Attributes:
        initial: the schema that it would name as a plain `$ref`.
        anchor: the dynamic anchor that the outermost schema resource in scope may redefine; None: `initial` always.
        only: the one schema that can be meant; None when that depends on how the value was reached.
    """

    initial: Json
    anchor: str | None
    only: Json | None


@dataclass(frozen=True, slots=True)
class Document:
    """A well-formed schema. It knows its parts by their id(), so a copy of it is itself.

    Attributes:
        root: the schema.
        draft: its draft.
        keywords: id() of a schema → its keywords in the vocabulary of draft 2020-12, for all schemas that a value can reach.
        targets: id() of a schema with a `$ref` → the schema it names.
        dynamic: the same for `$dynamicRef`.
        resources: id() of a schema → the URI of the schema resource it belongs to; empty without dynamic references.
        anchors: (resource, dynamic anchor) → the schema that bears it.
        recursive: id() of the schemas that are referred to and contain themselves.
        names: all property names declared or required.
        plain_patterns: the patterns that other engines accept too.
        size: bytes as compact JSON.
    """

    root: Json
    draft: Draft = LATEST
    keywords: Mapping[int, JsonObject] = field(default_factory=dict)
    targets: Mapping[int, Json] = field(default_factory=dict)
    dynamic: Mapping[int, DynamicTarget] = field(default_factory=dict)
    resources: Mapping[int, str] = field(default_factory=dict)
    anchors: Mapping[tuple[str, str], JsonObject] = field(default_factory=dict)
    recursive: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()
    plain_patterns: frozenset[str] = frozenset()
    size: int = 0

    def __deepcopy__(self, _memo: object) -> "Document":
        return self


def read_document(data: bytes, limits: SchemaLimits, budget: Budget) -> Document:
    """Read a schema from JSON.

    Raises:
        SchemaError: it is malformed, refers to what is not there, means nothing, or is over a limit.
        SchemaTooComplex: the budget is used up.
    """
    root = json.loads(data)
    if isinstance(root, bool):
        return Document(root)
    if not isinstance(root, dict):
        raise SchemaError("expected a JSON Schema (an object or a boolean)")
    paths, drafts = _paths(root, limits)
    budget.spend(len(paths) // 4)
    only = drafts.pop() if len(drafts) == 1 and "$schema" not in root else LATEST
    draft = draft_named(root.get("$schema")) or only
    collector = _Collector(paths, limits, budget)
    collector.add_resource(root, draft, "")
    collector.follow(root)
    _refuse_empty_loops(collector)
    dynamic = collector.dynamic_targets()
    named = {id(target) for target in (*collector.targets.values(), *(target.only for target in dynamic.values()))}
    return Document(
        root,
        draft,
        {node: collector.keywords[node] for node in collector.inner},
        collector.targets,
        dynamic,
        {node: base for node, (_, base, _) in collector.seen.items()} if dynamic else {},
        collector.dynamic_anchors,
        on_loops(collector.inner) & named,
        frozenset(collector.names),
        frozenset(collector.plain_patterns),
        len(data),
    )


def _paths(root: JsonObject, limits: SchemaLimits) -> tuple[dict[int, Path], set[Draft]]:
    """The path of each object, and the drafts named in them.

    Raises:
        SchemaError: it is nested too deeply, or has a number that JSON does not have.
    """
    paths: dict[int, Path] = {}
    drafts: set[Draft] = set()
    left: list[tuple[Json, Path]] = [(root, ())]
    while left:
        value, path = left.pop()
        if len(path) > limits.max_depth:
            raise SchemaError(f"the schema is nested more than {limits.max_depth} levels deep", path[:8])
        if isinstance(value, dict):
            paths[id(value)] = path
            if "$schema" in value and (draft := draft_named(value["$schema"])):
                drafts.add(draft)
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(item, dict | list):
                left.append((item, (*path, step)))
            elif isinstance(item, float) and not math.isfinite(item):
                raise SchemaError("expected a number that JSON can hold", (*path, step))
    return paths, drafts


@dataclass(slots=True)
class _Collector:
    """Looks at every schema of the document, and resolves the references of those that a value can reach."""

    paths: dict[int, Path]
    limits: SchemaLimits
    budget: Budget
    seen: dict[int, tuple[JsonObject, str, Draft]] = field(default_factory=dict)
    """id() of each schema looked at → the schema, its base URI, its draft."""
    keywords: dict[int, JsonObject] = field(default_factory=dict)
    resources: dict[str, JsonObject] = field(default_factory=dict)
    """Base URI → the schema that has it."""
    anchors: dict[tuple[str, str], JsonObject] = field(default_factory=dict)
    dynamic_anchors: dict[tuple[str, str], JsonObject] = field(default_factory=dict)
    targets: dict[int, Json] = field(default_factory=dict)
    dynamic: dict[int, tuple[Json, str | None]] = field(default_factory=dict)
    inner: dict[int, list[int]] = field(default_factory=dict)
    """Schema that a value can reach → the schemas it leads to."""
    in_place: dict[int, list[int]] = field(default_factory=dict)
    """The same, only those that apply to the same value."""
    names: set[str] = field(default_factory=set)
    plain_patterns: set[str] = field(default_factory=set)
    properties: int = 0

    def add_resource(self, root: JsonObject, draft: Draft, base: str) -> None:
        """Check the form of a schema and of all schemas in it, definitions too, and note their ids and anchors."""
        self.resources.setdefault(base, root)
        left = [(root, base)]
        while left:
            schema, base = left.pop()
            if id(schema) in self.seen:
                continue
            self.budget.spend()
            self._inspect(schema, draft)
            base = self._base(schema, base, draft)
            self.seen[id(schema)] = (schema, base, draft)
            self._note_anchors(schema, base, draft)
            for _, member in self._members(schema, draft):
                if isinstance(member, dict):
                    left.append((member, base))

    def _path(self, schema: JsonObject) -> Path:
        return self.paths.get(id(schema), ())  # a metaschema has none

    def _inspect(self, schema: JsonObject, draft: Draft) -> None:
        path = self._path(schema)
        if path and {"$id", "id"} & schema.keys() and draft_named(schema.get("$schema")) not in {None, draft}:
            raise SchemaError("expected the same draft of JSON Schema all through", (*path, "$schema"))
        check_forms(schema, draft, path)
        for keyword in ("anyOf", "oneOf", "allOf"):
            if len(schema.get(keyword, ())) > self.limits.max_alternatives:
                raise SchemaError(f"more than {self.limits.max_alternatives} alternatives", (*path, keyword))
        for source in (*([schema["pattern"]] if "pattern" in schema else ()), *schema.get("patternProperties", ())):
            prepared = pattern(source)
            self.budget.spend(1 + len(source) // 4)
            if prepared.plain:
                self.plain_patterns.add(source)
        self.properties += len(schema.get("properties", ()))
        if self.properties > self.limits.max_properties:
            raise SchemaError(f"the schema declares more than {self.limits.max_properties} properties", path)
        self.keywords[id(schema)] = keywords = normalized_keywords(schema, draft)
        self.names.update(keywords.get("properties", ()), keywords.get("required", ()))

    def _base(self, schema: JsonObject, base: str, draft: Draft) -> str:
        """The base URI of references in a schema, which may have an id of its own."""
        keyword = "$id" if draft.rank > 4 else "id"
        own = schema.get(keyword)
        if not isinstance(own, str) or own.startswith("#") or (draft.rank <= 7 and "$ref" in schema):
            return base
        try:
            base = urldefrag(urljoin(base, own)).url
        except ValueError:
            raise SchemaError("expected a URI", (*self._path(schema), keyword)) from None
        self.resources.setdefault(base, schema)
        return base

    def _note_anchors(self, schema: JsonObject, base: str, draft: Draft) -> None:
        own = schema.get("$id" if draft.rank > 4 else "id") if draft.rank <= 7 else None
        if isinstance(own, str) and "#" in own and not own.endswith("#"):
            self.anchors[base, own.partition("#")[2]] = schema
        if draft.rank >= 2019 and "$anchor" in schema:
            self.anchors[base, schema["$anchor"]] = schema
        if draft.rank >= 2020 and "$dynamicAnchor" in schema:
            self.anchors[base, schema["$dynamicAnchor"]] = self.dynamic_anchors[base, schema["$dynamicAnchor"]] = schema
        if draft.rank == 2019 and schema.get("$recursiveAnchor") is True:
            self.dynamic_anchors[base, ""] = schema

    def _members(self, schema: JsonObject, draft: Draft) -> Iterator[tuple[str, Json]]:
        try:
            for step, member in subschemas(schema, draft):
                yield str(step[0]), member
        except SchemaError as error:
            raise SchemaError(error.message, (*self._path(schema), *error.path)) from None

    def follow(self, root: JsonObject) -> None:
        """Resolve the references of all schemas that a value can reach from the root."""
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
        """(schema, whether it applies to the same value)"""
        keywords = self.keywords[id(schema)]
        if "$ref" in keywords:
            target = self.targets[id(schema)] = self._resolved(schema, "$ref")
            yield target, True
        if "$dynamicRef" in keywords:
            keyword = "$dynamicRef" if "$dynamicRef" in schema else "$recursiveRef"
            yield from ((target, True) for target in self._resolved_dynamically(schema, keyword))
        for keyword, value in keywords.items():
            if keyword in _APPLICATORS:
                members = value.values() if keyword in _BY_NAME else value if isinstance(value, list) else (value,)
                for member in members:
                    yield member, keyword in IN_PLACE

    def _resolved_dynamically(self, schema: JsonObject, keyword: str) -> list[Json]:
        """All schemas that may be meant."""
        initial = self._resolved(schema, keyword)
        anchor = "" if keyword == "$recursiveRef" else schema[keyword].partition("#")[2]
        base = self.seen[id(initial)][1] if isinstance(initial, dict) else None
        if base is None or self.dynamic_anchors.get((base, anchor)) is not initial:
            self.dynamic[id(schema)] = (initial, None)
            return [initial]
        self.dynamic[id(schema)] = (initial, anchor)
        return [target for (_, name), target in self.dynamic_anchors.items() if name == anchor]

    def dynamic_targets(self) -> dict[int, DynamicTarget]:
        """The dynamic references that values can reach."""
        found = {}
        for node, (initial, anchor) in self.dynamic.items():
            candidates = (
                [initial] if anchor is None else [t for (_, n), t in self.dynamic_anchors.items() if n == anchor]
            )
            found[node] = DynamicTarget(initial, anchor, candidates[0] if len(candidates) == 1 else None)
        return found

    def _resolved(self, schema: JsonObject, keyword: str) -> Json:
        path, reference = (*self._path(schema), keyword), schema[keyword]
        _, base, _ = self.seen[id(schema)]
        try:
            url, fragment = (base, reference[1:]) if reference.startswith("#") else urldefrag(urljoin(base, reference))
            resource = self._resource(url)
            fragment = unquote(fragment)
            if fragment and not fragment.startswith("/"):
                return self.anchors[url, fragment]
            _, inner_base, draft = self.seen[id(resource)]
            target: Json = resource
            for token in fragment.split("/")[1:]:
                target = _member(target, token)
                if isinstance(target, dict) and id(target) in self.seen:
                    _, inner_base, draft = self.seen[id(target)]
        except (ValueError, LookupError, TypeError):
            raise SchemaError(_unresolved(reference), path) from None
        if not isinstance(target, dict | bool):
            raise SchemaError(f"expected a reference to a schema, and {_shown(reference)} is none", path)
        if isinstance(target, dict) and id(target) not in self.seen:
            self.add_resource(target, draft, inner_base)
        return target

    def _resource(self, url: str) -> JsonObject:
        """The schema with a base URI: one of the document, or a metaschema."""
        if url not in self.resources:
            metaschema: JsonObject = METASCHEMAS[url].contents
            self.add_resource(metaschema, draft_named(metaschema.get("$schema")) or LATEST, url)
        return self.resources[url]


_BY_NAME = frozenset({"properties", "patternProperties", "dependentSchemas"})
_APPLICATORS = (
    IN_PLACE
    | _BY_NAME
    | {
        "additionalProperties",
        "propertyNames",
        "unevaluatedProperties",
        "items",
        "prefixItems",
        "contains",
        "unevaluatedItems",
    }
)


def _member(value: Json, token: str) -> Json:
    """One step of a JSON pointer (RFC 6901)."""
    if isinstance(value, list):
        if not token.isdecimal():
            raise LookupError(token)
        return value[int(token)]
    return value[token.replace("~1", "/").replace("~0", "~")]


def _unresolved(reference: str) -> str:
    if reference.startswith("#"):
        return f"{_shown(reference)} is not in the schema"
    return f"{_shown(reference)} is outside the schema, and other documents are not fetched: put it under `$defs`"


def _shown(reference: str) -> str:
    return json.dumps(reference if len(reference) <= 120 else reference[:119] + "…", ensure_ascii=False)


def _refuse_empty_loops(collector: _Collector) -> None:
    loops = on_loops(collector.in_place)
    if loops:
        path = min((collector.paths.get(node, ()) for node in loops), key=lambda steps: (len(steps), str(steps)))
        raise SchemaError("the schema refers back to itself without going into a property or an item", path)


# ---------------------------------------------------------------- cycles

Graph = Mapping[int, Sequence[int]]
"""Node → the nodes it leads to."""


def on_loops(graph: Graph) -> frozenset[int]:
    """The nodes on cycles, and those between two cycles: what is left when dead ends are removed from both sides."""
    return frozenset(_without_dead_ends(_reversed(_without_dead_ends(graph))))


def _reversed(graph: Graph) -> dict[int, list[int]]:
    turned: dict[int, list[int]] = {node: [] for node in graph}
    for node, others in graph.items():
        for other in others:
            if other in turned:
                turned[other].append(node)
    return turned


def _without_dead_ends(graph: Graph) -> Graph:
    """The graph without the nodes from which every path ends."""
    entering = _reversed(graph)
    exits = {node: sum(other in graph for other in others) for node, others in graph.items()}
    ends = [node for node, count in exits.items() if count == 0]
    while ends:
        node = ends.pop()
        del exits[node]
        for other in entering[node]:
            exits[other] -= 1
            if exits[other] == 0:
                ends.append(other)
    return {node: graph[node] for node in exits}
