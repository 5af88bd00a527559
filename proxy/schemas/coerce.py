"""Turning an answer into what the client's schema means: aliases undone, and spelling corrected.

"3" for 3, "true" for true, JSON text for an object, null for an absent property: the walk follows the original schema. At each place it
collects what the value may have been meant to be, keeps the candidate with the fewest validation errors there, and leaves the value alone
when two different candidates are equally good.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from proxy.errors import SchemaTooComplex
from proxy.schemas.compile import CompiledSchema
from proxy.schemas.document import Document
from proxy.schemas.validate import Evaluator, StepsExhausted
from proxy.schemas.values import Budget, Json, JsonObject, is_integer, type_of

_MAX_ROUNDS = 4
_MAX_ERRORS = 200
_MAX_INTEGER = 2**63 - 1
"""What JSON writers hold exactly."""
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?")


def coerce(compiled: CompiledSchema, instance: object, budget: Budget | None = None) -> object:
    """Undo the aliases of property names, and correct the spelling of a value where the original schema leaves no doubt.

    Args:
        compiled: from `compile_schema` or `compile_parameters`.
        instance: a JSON value of any type and depth; not changed.
        budget: the request's; None: a budget for this value alone.

    Returns:
        A value with fewer validation errors, or the very same instance. Whole floats are integers where the schema asks for integers.
    """
    if compiled.must_be_object and isinstance(instance, str):
        instance = next((value for value in _parsed(instance) if isinstance(value, dict)), instance)
    evaluator = Evaluator(compiled.document, instance, budget or Budget())
    try:
        if compiled.aliases or compiled.json_texts:
            instance = _restored(compiled, [compiled.schema], instance)
        coercer = _Coercer(compiled.document, evaluator)
        instance = coercer.apply(_Coercer.corrected, [compiled.document.root], instance)
        if _has_whole_float(instance):
            instance = coercer.apply(_Coercer.converted, [compiled.document.root], instance)
        return instance
    except (StepsExhausted, SchemaTooComplex, RecursionError):
        return instance


# ---------------------------------------------------------------- names and forms that stood in for the client's


def _restored(compiled: CompiledSchema, schemas: list[JsonObject], value: Json) -> Json:
    """The value with the client's property names, and with the values that were asked for as JSON text.

    Free property names are left alone, even where one equals an alias.

    Args:
        schemas: the compiled schemas that apply to the value; alternatives may all apply.
    """
    schemas = [*schemas, *(option for schema in schemas for option in schema.get("anyOf", ()))]
    if isinstance(value, str) and any(id(schema) in compiled.json_texts for schema in schemas):
        return next((parsed for parsed in _parsed(value) if isinstance(parsed, dict | list)), value)
    if isinstance(value, list):
        items = _parts(schemas, "items")
        return _unless_same(value, [_restored(compiled, items, item) for item in value])
    if not isinstance(value, dict):
        return value
    members, others = _parts(schemas, "properties"), _parts(schemas, "additionalProperties")
    restored = {}
    for name, item in value.items():
        declared = [properties[name] for properties in members if name in properties]
        original = compiled.aliases.get(name, name) if declared else name
        restored[name if original in value else original] = _restored(compiled, declared or others, item)
    return _unless_same(value, restored)


def _unless_same(value: Json, changed: Json) -> Json:
    """The changed list or object, or the value where all its parts are the very same."""
    if isinstance(value, dict):
        same = all(name in changed and changed[name] is item for name, item in value.items())
    else:
        same = all(new is old for new, old in zip(changed, value, strict=True))
    return value if same else changed


def _parts(schemas: list[JsonObject], keyword: str) -> list[JsonObject]:
    return [schema[keyword] for schema in schemas if isinstance(schema.get(keyword), dict)]


# ---------------------------------------------------------------- spelling


@dataclass(frozen=True, slots=True)
class _Coercer:
    """Changes values along the schemas that apply to them and to their parts."""

    document: Document
    evaluator: Evaluator
    _known: dict[tuple[object, int, int], tuple[Json, Json]] = field(default_factory=dict)

    def apply(
        self, change: "Callable[[_Coercer, JsonObject, Json], Json]", schemas: Iterable[Json], value: Json
    ) -> Json:
        """The value after a change (`corrected` or `converted`) by each of the schemas; found once for each schema and value."""
        for schema in schemas:
            if not isinstance(schema, bool):
                key = (change, id(schema), id(value))
                if key not in self._known:
                    self._known[key] = (
                        change(self, schema, value),
                        value,
                    )  # the value is kept, so that its id stays its own
                value = self._known[key][0]
        return value

    def _apply_inside(
        self, change: "Callable[[_Coercer, JsonObject, Json], Json]", schema: JsonObject, value: Json
    ) -> Json:
        """A list or object with its parts changed."""
        if isinstance(value, dict):
            return {name: self.apply(change, self._of_property(schema, name), item) for name, item in value.items()}
        return [self.apply(change, [self._of_item(schema, index)], item) for index, item in enumerate(value)]

    def _in_place(self, schema: JsonObject) -> list[Json]:
        """The schemas that apply to the same value."""
        keywords = self.document.keywords[id(schema)]
        members = [member for keyword in ("allOf", "anyOf", "oneOf") for member in keywords.get(keyword, ())]
        branches = [keywords[keyword] for keyword in ("then", "else") if keyword in keywords]
        targets = [keywords["$ref"]] if "$ref" in keywords else []
        targets += [self.evaluator.dynamic_target(*keywords["$dynamicRef"])] if "$dynamicRef" in keywords else []
        return [*members, *branches, *keywords.get("dependentSchemas", {}).values(), *targets]

    def _of_property(self, schema: JsonObject, name: str) -> list[Json]:
        keywords = self.document.keywords[id(schema)]
        patterned = keywords.get("patternProperties", {})
        found = [member for source, member in patterned.items() if self.evaluator.found_in(source, name)]
        if name in keywords.get("properties", {}):
            found.append(keywords["properties"][name])
        return found or [keywords.get("additionalProperties", True)]

    def _of_item(self, schema: JsonObject, index: int) -> Json:
        keywords = self.document.keywords[id(schema)]
        prefix = keywords.get("prefixItems", ())
        return prefix[index] if index < len(prefix) else keywords.get("items", True)

    # ------------------------------------------------------------ spelling

    def corrected(self, schema: JsonObject, value: Json) -> Json:
        """The value as it fits the schema best."""
        errors = self._count_errors(schema, value)
        for _ in range(_MAX_ROUNDS):
            if not errors:
                break
            tiers = (self._meant(schema, value), self._wrapped(schema, value))  # as one item of a list only at last
            better = next(filter(None, (self._best(schema, tier, errors) for tier in tiers)), None)
            if better is None:
                break
            errors, value = better
        return value

    def _count_errors(self, schema: Json, value: Json) -> int:
        """How many validation errors the value has, as far as they are counted."""
        failures = (failure for failure in self.evaluator.failures(schema, value) if failure.note is None)
        return sum(1 for _ in islice(failures, _MAX_ERRORS))

    def _best(self, schema: Json, candidates: Iterator[Json], errors: int) -> tuple[int, Json] | None:
        """The candidate with the fewest errors, if it has fewer; None too when different ones would be right."""
        distinct = {self.evaluator.key(candidate): candidate for candidate in candidates}
        scored = [(self._count_errors(schema, candidate), candidate) for candidate in distinct.values()]
        least = min((score for score, _ in scored), default=errors)
        best = [candidate for score, candidate in scored if score == least]
        return (least, best[0]) if least < errors and (least or len(best) == 1) else None

    def _meant(self, schema: JsonObject, value: Json) -> Iterator[Json]:
        """What the value may have been meant to be, by its parts and spelling."""
        for member in self._in_place(schema):
            yield self.apply(_Coercer.corrected, [member], value)
        if isinstance(value, dict | list):
            whole = self._apply_inside(_Coercer.corrected, schema, value)
            yield whole
            if isinstance(whole, dict):
                yield {name: item for name, item in whole.items() if not self._is_superfluous(schema, name, item)}
        for spelling in _spellings(self.document.keywords[id(schema)], value):
            is_scalar = not isinstance(spelling, dict | list)
            yield spelling if is_scalar else self.apply(_Coercer.corrected, [schema], spelling)

    def _wrapped(self, schema: JsonObject, value: Json) -> Iterator[Json]:
        """The value as the one item of a list, where it is an item as it stands and no list in words."""
        items = self._of_item(schema, 0)
        types = _types(self.document.keywords[id(schema)])
        if "array" not in types or isinstance(value, list | None) or isinstance(items, bool) or not items:
            return
        if not (isinstance(value, str) and re.search(r"[,;\n]", value)):
            yield [value]

    def _is_superfluous(self, schema: JsonObject, name: str, value: Json) -> bool:
        """Whether a property is null, which the schema forbids, and need not be there."""
        if value is not None or name in self.document.keywords[id(schema)].get("required", ()):
            return False
        return any(self._count_errors(member, None) for member in self._of_property(schema, name))

    # ------------------------------------------------------------ integers

    def converted(self, schema: JsonObject, value: Json) -> Json:
        """The value with whole floats as integers where a schema that it matches asks for integers, or lists them."""
        if isinstance(value, float):
            value = _number(self.document.keywords[id(schema)], value)
        elif isinstance(value, dict | list):
            value = _unless_same(value, self._apply_inside(_Coercer.converted, schema, value))
        else:
            return value
        matching = [member for member in self._in_place(schema) if self.evaluator.outcome(member, value) is not False]
        return self.apply(_Coercer.converted, matching, value)


def _number(keywords: JsonObject, value: float) -> int | float:
    if not value.is_integer() or abs(value) > _MAX_INTEGER:
        return value
    types = _types(keywords)
    listed = [*keywords.get("enum", ()), keywords.get("const")]
    is_listed = any(isinstance(item, int) and not isinstance(item, bool) and item == value for item in listed)
    return int(value) if is_listed or ("integer" in types and "number" not in types) else value


def _has_whole_float(value: Json) -> bool:
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)
        elif isinstance(item, float) and item.is_integer():
            return True
    return False


def _types(keywords: JsonObject) -> frozenset[str]:
    named = keywords.get("type", ())
    return frozenset([named] if isinstance(named, str) else named)


def _spellings(keywords: JsonObject, value: Json) -> Iterator[Json]:
    """What the value is when read as one of the types or listed values of the schema."""
    types = _types(keywords)
    if isinstance(value, str):
        yield from (
            parsed
            for parsed in _parsed(value)
            if type_of(parsed) in types or (is_integer(parsed) and "integer" in types)
        )
    elif isinstance(value, bool | int) and "string" in types:
        yield json.dumps(value)
    if not isinstance(value, dict | list):
        listed = [*keywords.get("enum", ()), *([keywords["const"]] if "const" in keywords else ())]
        alike = [item for item in listed if not isinstance(item, dict | list) and _spelled(item) == _spelled(value)]
        yield from alike if len(alike) == 1 else ()


def _spelled(value: Json) -> str:
    """What two spellings of one scalar share."""
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
