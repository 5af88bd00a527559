"""Correcting the spelling of a value: "3" for 3, "true" for true, JSON text for an object, null for an absent property.

The walk follows the original schema. At each place it collects what the value may have been meant to be, keeps the candidate with the
fewest validation errors there, and leaves the value alone when two different candidates are equally good.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from proxy.schemas.compile import CompiledSchema
from proxy.schemas.document import Document
from proxy.schemas.patterns import pattern
from proxy.schemas.validate import Checker, StepsExhausted
from proxy.schemas.values import Budget, Json, identity, is_integer

_STEPS = 50_000
"""Keywords evaluated for one value."""
_MAX_ROUNDS = 4
_MAX_ERRORS = 200
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?")


def coerce(compiled: CompiledSchema, instance: object, budget: Budget | None = None) -> object:
    """Correct the spelling of a value where the original schema leaves no doubt.

    Args:
        compiled: from `compile_schema` or `compile_parameters`.
        instance: a JSON value of any type and depth; not changed.
        budget: the request's; None: a budget for this value alone.

    Returns:
        A value with fewer validation errors, or the very same instance.
    """
    if compiled.must_be_object and isinstance(instance, str):
        instance = next((value for value in _parsed(instance) if isinstance(value, dict)), instance)
    try:
        return _Coercer(compiled.document, Checker(compiled.document, _STEPS)).coerced(compiled.document.root, instance)
    except (StepsExhausted, RecursionError):
        return instance


@dataclass(frozen=True, slots=True)
class _Coercer:
    document: Document
    checker: Checker
    _known: dict[tuple[int, int], tuple[Json, Json]] = field(default_factory=dict)

    def coerced(self, schema: Json, value: Json) -> Json:
        """The value as it fits the schema best; found once for each of the two."""
        if isinstance(schema, bool):
            return value
        known = self._known.get((id(schema), id(value)))
        if known is None:
            known = (self._coerced(schema, value), value)  # the value is kept, so that its id stays its own
            self._known[id(schema), id(value)] = known
        return known[0]

    def _coerced(self, schema: Json, value: Json) -> Json:
        errors = self._count_errors(schema, value)
        for _ in range(_MAX_ROUNDS):
            if not errors:
                break
            better = next(filter(None, (self._best(schema, tier, errors) for tier in self._tiers(schema, value))), None)
            if better is None:
                break
            errors, value = better
        return value

    def _count_errors(self, schema: Json, value: Json) -> int:
        """How many errors the value has, as far as they are counted."""
        if isinstance(schema, bool):
            return 0 if schema else 1
        return sum(1 for _ in islice(self.checker.errors(value, schema), _MAX_ERRORS))

    def _best(self, schema: Json, candidates: Iterator[Json], errors: int) -> tuple[int, Json] | None:
        """The candidate with the fewest errors, if it has fewer; None too when different ones would be right."""
        distinct = {identity(candidate): candidate for candidate in candidates}
        scored = [(self._count_errors(schema, candidate), candidate) for candidate in distinct.values()]
        least = min((score for score, _ in scored), default=errors)
        best = [candidate for score, candidate in scored if score == least]
        return (least, best[0]) if least < errors and (least or len(best) == 1) else None

    def _tiers(self, schema: Json, value: Json) -> Iterator[Iterator[Json]]:
        """What the value may have been meant to be: first by its parts and spelling, and only then as the one item of a list."""
        yield self._meant(schema, value)
        yield self._wrapped(schema, value)

    def _meant(self, schema: Json, value: Json) -> Iterator[Json]:
        for member in self._in_place(schema):
            yield self.coerced(member, value)
        if isinstance(value, dict):
            whole = {name: self._part(self._of_property(schema, name), item) for name, item in value.items()}
            yield whole
            yield {name: item for name, item in whole.items() if not self._is_superfluous(schema, name, item)}
        elif isinstance(value, list):
            yield [self._part([self._of_item(schema, index)], item) for index, item in enumerate(value)]
        for spelling in _spellings(schema, value):
            yield self.coerced(schema, spelling) if isinstance(spelling, dict | list) else spelling

    def _wrapped(self, schema: Json, value: Json) -> Iterator[Json]:
        """The value as the one item of a list, where it is an item as it stands and no list in words."""
        items = self._of_item(schema, 0)
        if "array" not in _types(schema) or isinstance(value, list | None) or isinstance(items, bool) or not items:
            return
        if not (isinstance(value, str) and re.search(r"[,;\n]", value)):
            yield [value]

    def _part(self, schemas: list[Json], value: Json) -> Json:
        for schema in schemas:
            value = self.coerced(schema, value)
        return value

    def _is_superfluous(self, schema: Json, name: str, value: Json) -> bool:
        """Whether a property is null, which the schema forbids, and need not be there."""
        if value is not None or name in self.document.draft.keywords(schema).get("required", ()):
            return False
        return any(self._count_errors(member, None) for member in self._of_property(schema, name))

    def _in_place(self, schema: Json) -> list[Json]:
        """The schemas that checker the same value."""
        keywords = self.document.draft.keywords(schema)
        branches = [keywords[keyword] for keyword in ("then", "else") if keyword in keywords]
        targets = [self.document.targets[id(schema)]] if "$ref" in keywords else []
        return [
            *(member for keyword in ("allOf", "anyOf", "oneOf") for member in keywords.get(keyword, ())),
            *branches,
            *targets,
        ]

    def _of_property(self, schema: Json, name: str) -> list[Json]:
        """The schemas that checker a property."""
        keywords = self.document.draft.keywords(schema)
        found = [
            member for source, member in keywords.get("patternProperties", {}).items() if pattern(source).found_in(name)
        ]
        if name in keywords.get("properties", {}):
            found.append(keywords["properties"][name])
        return found or [keywords.get("additionalProperties", True)]

    def _of_item(self, schema: Json, index: int) -> Json:
        """The schema that judges an item."""
        keywords = self.document.draft.keywords(schema)
        items = keywords.get("items", True)
        prefix, rest = (
            (items, keywords.get("additionalItems", True))
            if isinstance(items, list)
            else (keywords.get("prefixItems", []), items)
        )
        return prefix[index] if index < len(prefix) else rest


def _types(schema: Json) -> frozenset[str]:
    named = schema.get("type", ())
    types = frozenset([named] if isinstance(named, str) else named)
    return types | {"null"} if types and schema.get("nullable") is True else types


def _spellings(schema: Json, value: Json) -> Iterator[Json]:
    """What the value is when read as one of the types or listed values of the schema."""
    types = _types(schema)
    if isinstance(value, str):
        yield from (parsed for parsed in _parsed(value) if _type_of(parsed) & types)
    elif isinstance(value, bool | int) and "string" in types:
        yield json.dumps(value)
    elif isinstance(value, float) and value.is_integer() and "integer" in types:
        yield int(value)
    if not isinstance(value, dict | list):
        listed = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]
        alike = [item for item in listed if not isinstance(item, dict | list) and _spelled(item) == _spelled(value)]
        yield from alike if len(alike) == 1 else ()


def _spelled(value: Json) -> str:
    """What two spellings of one scalar share."""
    return (value if isinstance(value, str) else json.dumps(value)).strip().casefold()


def _type_of(value: Json) -> set[str]:
    match value:
        case None:
            return {"null"}
        case bool():
            return {"boolean"}
        case int() | float():
            return {"number", "integer"} if is_integer(value) else {"number"}
        case list():
            return {"array"}
        case _:
            return {"object"}


def _parsed(text: str) -> Iterator[Json]:
    """The value that a text spells, other than a text."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = float(text)
        yield int(text) if text.lstrip("-").isdigit() else int(number) if number.is_integer() else number
    elif text.lower() in {"true", "false", "null"}:
        yield json.loads(text.lower())
    elif text[:1] in {"{", "["}:
        try:
            yield json.loads(text)
        except (ValueError, RecursionError):
            return
