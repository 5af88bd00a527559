"""Mending what is wrong in spelling only: "3" for 3, "true" for true, JSON text for an object, null for an absent property.

The walk follows the original schema. At each place it gathers what the value may have been meant to be, keeps what leaves the fewest
violations there, and leaves the value alone when two different values would do as well.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from proxy.translate.schema.compile import Compiled
from proxy.translate.schema.document import Document
from proxy.translate.schema.judge import Judge, OutOfSteps
from proxy.translate.schema.patterns import pattern
from proxy.translate.schema.values import Json, identity, is_integer

_STEPS = 50_000
"""Keywords looked at for one value."""
_MAX_ROUNDS = 4
_MAX_FAULTS = 200
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?")


def mend(compiled: Compiled, instance: object) -> object:
    """Correct the spelling of a value where the original schema leaves no doubt.

    Args:
        compiled: from `compile_schema` or `compile_parameters`.
        instance: a JSON value of any kind and depth; not changed.

    Returns:
        A value with fewer violations, or the very same instance.
    """
    if compiled.must_be_object and isinstance(instance, str):
        instance = next((value for value in _parsed(instance) if isinstance(value, dict)), instance)
    try:
        return _Mender(compiled.document, Judge(compiled.document, _STEPS)).mended(compiled.document.root, instance)
    except (OutOfSteps, RecursionError):
        return instance


@dataclass(frozen=True, slots=True)
class _Mender:
    document: Document
    judge: Judge
    _known: dict[tuple[int, int], tuple[Json, Json]] = field(default_factory=dict)

    def mended(self, schema: Json, value: Json) -> Json:
        """The value as it fits the schema best; found once for each of the two."""
        if isinstance(schema, bool):
            return value
        known = self._known.get((id(schema), id(value)))
        if known is None:
            known = (self._mended(schema, value), value)  # the value is kept, so that its id stays its own
            self._known[id(schema), id(value)] = known
        return known[0]

    def _mended(self, schema: Json, value: Json) -> Json:
        faults = self._faults(schema, value)
        for _ in range(_MAX_ROUNDS):
            if not faults:
                break
            better = next(filter(None, (self._best(schema, tier, faults) for tier in self._tiers(schema, value))), None)
            if better is None:
                break
            faults, value = better
        return value

    def _faults(self, schema: Json, value: Json) -> int:
        """How many violations the value has, as far as they are counted."""
        if isinstance(schema, bool):
            return 0 if schema else 1
        return sum(1 for _ in islice(self.judge.errors(value, schema), _MAX_FAULTS))

    def _best(self, schema: Json, candidates: Iterator[Json], faults: int) -> tuple[int, Json] | None:
        """The candidate with the fewest faults, if it has fewer; None too when different ones would be right."""
        distinct = {identity(candidate): candidate for candidate in candidates}
        scored = [(self._faults(schema, candidate), candidate) for candidate in distinct.values()]
        least = min((score for score, _ in scored), default=faults)
        best = [candidate for score, candidate in scored if score == least]
        return (least, best[0]) if least < faults and (least or len(best) == 1) else None

    def _tiers(self, schema: Json, value: Json) -> Iterator[Iterator[Json]]:
        """What the value may have been meant to be: first by its parts and spelling, and only then as the one item of a list."""
        yield self._meant(schema, value)
        yield self._wrapped(schema, value)

    def _meant(self, schema: Json, value: Json) -> Iterator[Json]:
        for member in self._in_place(schema):
            yield self.mended(member, value)
        if isinstance(value, dict):
            whole = {name: self._part(self._of_property(schema, name), item) for name, item in value.items()}
            yield whole
            yield {name: item for name, item in whole.items() if not self._superfluous(schema, name, item)}
        elif isinstance(value, list):
            yield [self._part([self._of_item(schema, index)], item) for index, item in enumerate(value)]
        for spelling in _spellings(schema, value):
            yield self.mended(schema, spelling) if isinstance(spelling, dict | list) else spelling

    def _wrapped(self, schema: Json, value: Json) -> Iterator[Json]:
        """The value as the one item of a list, where it is an item as it stands and no list in words."""
        items = self._of_item(schema, 0)
        if "array" not in _types(schema) or isinstance(value, list | None) or isinstance(items, bool) or not items:
            return
        if not (isinstance(value, str) and re.search(r"[,;\n]", value)):
            yield [value]

    def _part(self, schemas: list[Json], value: Json) -> Json:
        for schema in schemas:
            value = self.mended(schema, value)
        return value

    def _superfluous(self, schema: Json, name: str, value: Json) -> bool:
        """Whether a property is null, which the schema forbids, and need not be there."""
        if value is not None or name in self.document.dialect.said(schema).get("required", ()):
            return False
        return any(self._faults(member, None) for member in self._of_property(schema, name))

    def _in_place(self, schema: Json) -> list[Json]:
        """The schemas that judge the same value."""
        said = self.document.dialect.said(schema)
        branches = [said[keyword] for keyword in ("then", "else") if keyword in said]
        targets = [self.document.targets[id(schema)]] if "$ref" in said else []
        return [
            *(member for keyword in ("allOf", "anyOf", "oneOf") for member in said.get(keyword, ())),
            *branches,
            *targets,
        ]

    def _of_property(self, schema: Json, name: str) -> list[Json]:
        """The schemas that judge a property."""
        said = self.document.dialect.said(schema)
        found = [
            member for source, member in said.get("patternProperties", {}).items() if pattern(source).found_in(name)
        ]
        if name in said.get("properties", {}):
            found.append(said["properties"][name])
        return found or [said.get("additionalProperties", True)]

    def _of_item(self, schema: Json, index: int) -> Json:
        """The schema that judges an item."""
        said = self.document.dialect.said(schema)
        items = said.get("items", True)
        prefix, rest = (
            (items, said.get("additionalItems", True))
            if isinstance(items, list)
            else (said.get("prefixItems", []), items)
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
