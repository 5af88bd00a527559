"""Mending what is wrong in spelling only: "3" for 3, "true" for true, JSON text for an object, null for an absent property.

The walk follows the original schema. At each place it gathers what the value may have been meant to be, keeps what leaves the fewest
violations there, and leaves the value alone when two different values would do as well.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from proxy.translate.schema.compile import Compiled
from proxy.translate.schema.document import Document
from proxy.translate.schema.judge import Judge, OutOfSteps
from proxy.translate.schema.patterns import pattern
from proxy.translate.schema.values import Json, identity, is_integer

_STEPS = 200_000
_MAX_DEPTH = 40
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
        return _Mender(compiled.document, Judge(compiled.document, _STEPS)).mended(
            compiled.document.root, instance, _MAX_DEPTH
        )
    except (OutOfSteps, RecursionError):
        return instance


@dataclass(frozen=True, slots=True)
class _Mender:
    document: Document
    judge: Judge

    def mended(self, schema: Json, value: Json, depth: int) -> Json:
        """The value as it fits the schema best."""
        if isinstance(schema, bool) or depth <= 0:
            return value
        faults = self._faults(schema, value)
        for _ in range(_MAX_ROUNDS):
            if not faults:
                break
            better = next(
                filter(None, (self._best(schema, tier, faults) for tier in self._tiers(schema, value, depth))), None
            )
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

    def _tiers(self, schema: Json, value: Json, depth: int) -> Iterator[Iterator[Json]]:
        """What the value may have been meant to be: first by its parts and spelling, and only then as the one item of a list."""
        yield self._meant(schema, value, depth)
        yield self._wrapped(schema, value, depth)

    def _meant(self, schema: Json, value: Json, depth: int) -> Iterator[Json]:
        for member in self._in_place(schema):
            yield self.mended(member, value, depth - 1)
        if isinstance(value, dict):
            whole = {name: self._part(self._of_property(schema, name), item, depth) for name, item in value.items()}
            yield whole
            yield {name: item for name, item in whole.items() if not self._superfluous(schema, name, item)}
        elif isinstance(value, list):
            yield [self._part(self._of_item(schema, index), item, depth) for index, item in enumerate(value)]
        for spelling in _spellings(schema, value):
            yield self.mended(schema, spelling, depth - 1) if isinstance(spelling, dict | list) else spelling

    def _wrapped(self, schema: Json, value: Json, depth: int) -> Iterator[Json]:
        listed = isinstance(value, str) and re.search(r"[,;\n]", value)
        if "array" in _types(schema) and not isinstance(value, list | None) and not listed:
            yield self.mended(schema, [value], depth - 1)

    def _part(self, schemas: list[Json], value: Json, depth: int) -> Json:
        for schema in schemas:
            value = self.mended(schema, value, depth - 1)
        return value

    def _superfluous(self, schema: Json, name: str, value: Json) -> bool:
        """Whether a property is null, which the schema forbids, and need not be there."""
        if value is not None or name in schema.get("required", ()):
            return False
        return any(self._faults(member, None) for member in self._of_property(schema, name))

    def _in_place(self, schema: Json) -> list[Json]:
        target = self.document.targets.get(id(schema))
        alone = target is not None and self.document.dialect.ref_stands_alone
        keywords = () if alone else ("allOf", "anyOf", "oneOf")
        branches = [schema[keyword] for keyword in ("then", "else") if keyword in schema and not alone]
        return (
            [member for keyword in keywords for member in schema.get(keyword, ())]
            + branches
            + ([target] if target is not None else [])
        )

    def _of_property(self, schema: Json, name: str) -> list[Json]:
        patterned = schema.get("patternProperties", {})
        found = [member for source, member in patterned.items() if pattern(source).found_in(name)]
        if name in schema.get("properties", {}):
            found.append(schema["properties"][name])
        return found or [schema[keyword] for keyword in ("additionalProperties",) if keyword in schema]

    def _of_item(self, schema: Json, index: int) -> list[Json]:
        items = schema.get("items", True)
        prefix, rest = (
            (items, schema.get("additionalItems", True))
            if isinstance(items, list)
            else (schema.get("prefixItems", []), items)
        )
        return [prefix[index] if index < len(prefix) else rest]


def _types(schema: Json) -> frozenset[str]:
    named = schema.get("type", ())
    return frozenset([named] if isinstance(named, str) else named)


def _spellings(schema: Json, value: Json) -> Iterator[Json]:
    """What the value is when read as one of the types or listed values of the schema."""
    types = _types(schema)
    if isinstance(value, str):
        yield from (parsed for parsed in _parsed(value) if _type_of(parsed) & types)
    elif isinstance(value, bool | int) and "string" in types:
        yield json.dumps(value)
    elif isinstance(value, float) and value.is_integer() and "integer" in types:
        yield int(value)
    listed = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]
    alike = [item for item in listed if _spelled(item) == _spelled(value)]
    if len(alike) == 1:
        yield alike[0]


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


def _spelled(value: Json) -> str | None:
    """What is the same in two spellings of one value; None for objects and arrays."""
    if isinstance(value, dict | list):
        return None
    return (value if isinstance(value, str) else json.dumps(value)).strip().casefold()


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
