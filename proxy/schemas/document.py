"""A schema read once: its form checked, its references resolved, its cycles known.

References are resolved here for good: later readers of the document need no base URI. Nothing is ever fetched:
beside the schema itself only the metaschemas can be referred to, which the `jsonschema-specifications` package brings. All walks use a
list of what is left to do, not the call stack.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from urllib.parse import unquote, urldefrag, urljoin

from proxy.schemas.drafts import (
    IN_PLACE,
    LATEST,
    SUBSCHEMAS,
    Draft,
    check_forms,
    draft_named,
    normalized_keywords,
    steps_to,
)
from proxy.schemas.patterns import BadPattern, pattern
from proxy.schemas.values import Budget, Json, JsonObject, Path, SchemaError, SchemaLimits


@dataclass(slots=True)
class Document:
    """A well-formed schema; not changed once it is read. It knows its parts by their id(), so a copy of it is itself.

    Attributes:
        root: the schema.
        size: bytes as compact JSON.
        draft: its draft.
        keywords: id() of a schema → its keywords in the vocabulary of draft 2020-12. Where a value can reach it, `$ref` is the schema
            referred to, and `$dynamicRef` that schema and the dynamic anchor that the outermost schema resource in scope may redefine
            (None: none).
        resources: id() of a schema → the URI of the schema resource it belongs to; empty without dynamic references.
        anchors: (resource, dynamic anchor) → the schema that bears it.
        recursive: id() of the schemas that are referred to and contain themselves.
        names: all property names declared or required.
        plain_patterns: the patterns that other engines accept too.
    """

    root: Json
    size: int = 0
    draft: Draft = LATEST
    keywords: dict[int, JsonObject] = field(default_factory=dict)
    resources: dict[int, str] = field(default_factory=dict)
    anchors: dict[tuple[str, str], JsonObject] = field(default_factory=dict)
    recursive: frozenset[int] = frozenset()
    names: set[str] = field(default_factory=set)
    plain_patterns: set[str] = field(default_factory=set)

    def dynamic_targets(self, initial: Json, anchor: str | None) -> list[Json]:
        """All schemas that a `$dynamicRef` may mean, depending on how the value was reached."""
        return [initial] if anchor is None else [target for (_, name), target in self.anchors.items() if name == anchor]

    def __deepcopy__(self, _memo: object) -> "Document":
        return self


def read_document(data: bytes, limits: SchemaLimits, budget: Budget) -> Document:
    """Read a schema from JSON.
    Raises SchemaError: it is malformed, refers to what is not there, means nothing, or is over a limit. SchemaTooComplex.
    """
    document = Document(json.loads(data), len(data))
    root = document.root
    if isinstance(root, bool):
        return document
    if not isinstance(root, dict):
        raise SchemaError("expected a JSON Schema (an object or a boolean)")
    paths, drafts = _paths(root, limits)
    budget.spend(len(paths) // 4)
    only = drafts.pop() if len(drafts) == 1 and "$schema" not in root else LATEST
    document.draft = draft_named(root.get("$schema")) or only
    collector = _Collector(document, paths, limits, budget)
    collector.add_resource(root, document.draft, "")
    collector.follow(root)
    loops = on_cycles(collector.in_place)
    if loops:
        path = min((paths.get(node, ()) for node in loops), key=lambda steps: (len(steps), str(steps)))
        raise SchemaError("the schema refers back to itself without going into a property or an item", path)
    document.recursive = on_cycles(collector.inner) & collector.named
    if any("$dynamicRef" in keywords for keywords in document.keywords.values()):
        document.resources = {node: base for node, (base, _) in collector.seen.items()}
    return document


def _paths(root: JsonObject, limits: SchemaLimits) -> tuple[dict[int, Path], set[Draft]]:
    """The path of each object, and the drafts named in them; SchemaError when they are nested too deeply."""
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
    return paths, drafts


@dataclass(slots=True)
class _Collector:
    """Looks at every schema of a document, and resolves the references of those that a value can reach."""

    document: Document
    paths: dict[int, Path]
    limits: SchemaLimits
    budget: Budget
    seen: dict[int, tuple[str, Draft]] = field(default_factory=dict)
    """id() of each schema looked at → its base URI, its draft."""
    resources: dict[str, JsonObject] = field(default_factory=dict)
    """Base URI → the schema that has it."""
    anchors: dict[tuple[str, str], JsonObject] = field(default_factory=dict)
    inner: dict[int, list[int]] = field(default_factory=dict)
    """Schema that a value can reach → the schemas it leads to."""
    in_place: dict[int, list[int]] = field(default_factory=dict)
    """The same, only those that apply to the same value."""
    named: set[int] = field(default_factory=set)
    """Schemas that references name."""
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
            path = self.paths.get(id(schema), ())  # a metaschema has none
            if path and {"$id", "id"} & schema.keys() and draft_named(schema.get("$schema")) not in {None, draft}:
                raise SchemaError("expected the same draft of JSON Schema all through", (*path, "$schema"))
            inner = check_forms(schema, draft, path)
            for keyword in ("anyOf", "oneOf", "allOf"):
                if len(schema.get(keyword, ())) > self.limits.max_alternatives:
                    raise SchemaError(f"more than {self.limits.max_alternatives} alternatives", (*path, keyword))
            self.properties += len(schema.get("properties", ()))
            if self.properties > self.limits.max_properties:
                raise SchemaError(f"the schema declares more than {self.limits.max_properties} properties", path)
            self._check_patterns(schema, path)
            self.document.keywords[id(schema)] = keywords = normalized_keywords(schema, draft)
            self.document.names.update(keywords.get("properties", ()), keywords.get("required", ()))
            base = self._base(schema, base, draft, path)
            self.seen[id(schema)] = (base, draft)
            left.extend((member, base) for member in inner if isinstance(member, dict))

    def _check_patterns(self, schema: JsonObject, path: Path) -> None:
        sources = [("patternProperties", source) for source in schema.get("patternProperties", ())]
        for keyword, source in [("pattern", schema["pattern"]), *sources] if "pattern" in schema else sources:
            self.budget.spend(1 + len(source) // 4)
            try:
                if pattern(source).plain:
                    self.document.plain_patterns.add(source)
            except BadPattern as error:
                raise SchemaError(f"expected a regular expression ({error})", (*path, keyword)) from None

    def _base(self, schema: JsonObject, base: str, draft: Draft, path: Path) -> str:
        """The base URI of references in a schema, which may have an id of its own. Notes its id and anchors."""
        keyword = "$id" if draft > 4 else "id"
        own = schema.get(keyword)
        if isinstance(own, str) and not own.startswith("#") and (draft > 7 or "$ref" not in schema):
            try:
                base = urldefrag(urljoin(base, own)).url
            except ValueError:
                raise SchemaError("expected a URI", (*path, keyword)) from None
            self.resources.setdefault(base, schema)
        if draft <= 7 and isinstance(own, str) and "#" in own and not own.endswith("#"):
            self.anchors[base, own.partition("#")[2]] = schema
        if draft >= 2019 and "$anchor" in schema:
            self.anchors[base, schema["$anchor"]] = schema
        if draft >= 2020 and "$dynamicAnchor" in schema:
            name = schema["$dynamicAnchor"]
            self.anchors[base, name] = self.document.anchors[base, name] = schema
        if draft == 2019 and schema.get("$recursiveAnchor") is True:
            self.document.anchors[base, ""] = schema
        return base

    def follow(self, root: JsonObject) -> None:
        """Resolve the references of all schemas that a value can reach from the root."""
        left = [root]
        while left:
            schema = left.pop()
            if id(schema) in self.inner:
                continue
            keywords = self.document.keywords[id(schema)]
            targets: list[Json] = []
            if "$ref" in keywords:
                keywords["$ref"] = self._resolved(schema, "$ref")
                targets.append(keywords["$ref"])
            if "$dynamicRef" in keywords:
                keyword = "$dynamicRef" if "$dynamicRef" in schema else "$recursiveRef"
                initial = self._resolved(schema, keyword)
                anchor = "" if keyword == "$recursiveRef" else schema[keyword].partition("#")[2]
                base = self.seen[id(initial)][0] if isinstance(initial, dict) else ""
                redefinable = self.document.anchors.get((base, anchor)) is initial
                keywords["$dynamicRef"] = (initial, anchor if redefinable else None)
                targets += self.document.dynamic_targets(*keywords["$dynamicRef"])
            self.named.update(map(id, targets))
            members = [(target, True) for target in targets]
            for keyword, value in keywords.items():
                if keyword in SUBSCHEMAS:
                    members += [(member, keyword in IN_PLACE) for _, member in steps_to(keyword, value)]
            self.inner[id(schema)] = [id(member) for member, _ in members if isinstance(member, dict)]
            if same := [id(member) for member, in_place in members if in_place and isinstance(member, dict)]:
                self.in_place[id(schema)] = same
            left += [member for member, _ in members if isinstance(member, dict)]

    def _resolved(self, schema: JsonObject, keyword: str) -> Json:
        reference = schema[keyword]
        path = (*self.paths.get(id(schema), ()), keyword)
        shown = json.dumps(reference if len(reference) <= 120 else reference[:119] + "…", ensure_ascii=False)
        base, _ = self.seen[id(schema)]
        try:
            url, fragment = (base, reference[1:]) if reference.startswith("#") else urldefrag(urljoin(base, reference))
            if url not in self.resources:
                # Here, since few schemas refer to one and all of them are read from files by the import.
                from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped] # noqa: PLC0415

                metaschema: JsonObject = REGISTRY[url].contents
                self.add_resource(metaschema, draft_named(metaschema.get("$schema")) or LATEST, url)
            fragment = unquote(fragment)
            if fragment and not fragment.startswith("/"):
                return self.anchors[url, fragment]
            target: Json = self.resources[url]
            inner_base, draft = self.seen[id(target)]
            for token in fragment.split("/")[1:]:  # a JSON pointer (RFC 6901)
                is_index = isinstance(target, list) and token.isdecimal()
                target = target[int(token) if is_index else token.replace("~1", "/").replace("~0", "~")]
                inner_base, draft = self.seen.get(id(target), (inner_base, draft))
        except (ValueError, LookupError, TypeError):
            outside = f"{shown} is outside the schema, and other documents are not fetched: put it under `$defs`"
            raise SchemaError(f"{shown} is not in the schema" if reference.startswith("#") else outside, path) from None
        if not isinstance(target, dict | bool):
            raise SchemaError(f"expected a reference to a schema, and {shown} is none", path)
        if isinstance(target, dict) and id(target) not in self.seen:
            self.add_resource(target, draft, inner_base)
        return target


def on_cycles(graph: Mapping[int, Sequence[int]]) -> frozenset[int]:
    """The nodes on cycles, and those between two cycles: what is left of a graph (node → the nodes it leads to) when dead ends are removed
    from both sides.
    """
    left: Mapping[int, Sequence[int]] = graph
    for _ in ("ends", "starts"):
        sorter = TopologicalSorter(left)
        with suppress(CycleError):
            sorter.prepare()
        on_paths = set(left)
        while ended := sorter.get_ready():
            sorter.done(*ended)
            on_paths.difference_update(ended)
        turned: dict[int, list[int]] = {node: [] for node in on_paths}
        for node in on_paths:
            for other in on_paths.intersection(left[node]):
                turned[other].append(node)
        left = turned
    return frozenset(left)
