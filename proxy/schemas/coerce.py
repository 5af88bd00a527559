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
from proxy.schemas.validate import Evaluator
from proxy.schemas.values import MAX_INTEGER, Budget, Json, JsonObject, TooLarge, is_integer, type_of

_MAX_ROUNDS = 4
_MAX_ERRORS = 200
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?")


def coerce(compiled: CompiledSchema, instance: object, budget: Budget | None = None) -> object:
    """Undo the aliases of property names, and correct the spelling of a JSON value of any type and depth where the original schema leaves
    no doubt. Gives a value with fewer validation errors, or the very same instance, which is not changed. Whole floats are integers
    where the schema asks for integers. `budget` is the request's; None: a budget for this value alone.
    """
    if compiled.must_be_object and isinstance(instance, str):
        instance = next((value for value in _parsed(instance) if isinstance(value, dict)), instance)
    evaluator = Evaluator(compiled.document, instance, budget or Budget())
    try:
        if compiled.aliases or compiled.json_texts:
            instance = _restored(compiled, [compiled.schema], instance)
        coercer, root = _Coercer(evaluator), [compiled.document.root]
        instance = coercer.apply(_Coercer.corrected, root, instance)
        return coercer.apply(_Coercer.converted, root, instance) if _has_whole_float(instance) else instance
    except (TooLarge, SchemaTooComplex, RecursionError):
        return instance


def _restored(compiled: CompiledSchema, schemas: list[JsonObject], value: Json) -> Json:
    """The value with the client's property names, and with the values that were asked for as JSON text, by the compiled schemas that apply
    to it (of alternatives all). Free property names are left alone, even where one equals an alias.
    """
    schemas = [*schemas, *(option for schema in schemas for option in schema.get("anyOf", ()))]
    if isinstance(value, str) and any(id(schema) in compiled.json_texts for schema in schemas):
        return next((parsed for parsed in _parsed(value) if isinstance(parsed, dict | list)), value)

    def parts(keyword: str) -> list[JsonObject]:
        return [schema[keyword] for schema in schemas if isinstance(schema.get(keyword), dict)]

    if isinstance(value, list):
        items = parts("items")
        return _unless_same(value, [_restored(compiled, items, item) for item in value])
    if not isinstance(value, dict):
        return value
    members, others = parts("properties"), parts("additionalProperties")
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


Change = Callable[["_Coercer", JsonObject, Json], Json]


@dataclass(frozen=True, slots=True)
class _Coercer:
    """Changes values along the schemas that apply to them and to their parts."""

    evaluator: Evaluator
    _known: dict[tuple[object, int, int], tuple[Json, Json]] = field(default_factory=dict)

    def apply(self, change: Change, schemas: Iterable[Json], value: Json) -> Json:
        """The value after a change (`corrected` or `converted`) by each of the schemas; found once for each schema and value."""
        for schema in schemas:
            if not isinstance(schema, bool):
                key = (change, id(schema), id(value))
                if key not in self._known:  # the value is kept, so that its id stays its own
                    self._known[key] = (change(self, schema, value), value)
                value = self._known[key][0]
        return value

    def _apply_inside(self, change: Change, keywords: JsonObject, value: Json) -> Json:
        """A list or object with its parts changed."""
        if isinstance(value, dict):
            return {name: self.apply(change, self._of_property(keywords, name), item) for name, item in value.items()}
        return [self.apply(change, [_of_item(keywords, index)], item) for index, item in enumerate(value)]

    def _keywords(self, schema: JsonObject) -> JsonObject:
        return self.evaluator.document.keywords[id(schema)]

    def _in_place(self, keywords: JsonObject) -> list[Json]:
        """The schemas that apply to the same value."""
        members = [member for keyword in ("allOf", "anyOf", "oneOf") for member in keywords.get(keyword, ())]
        members += [keywords[keyword] for keyword in ("then", "else", "$ref") if keyword in keywords]
        members += keywords.get("dependentSchemas", {}).values()
        found = keywords.get("$dynamicRef")
        return [*members, self.evaluator.dynamic_target(*found)] if found else members

    def _of_property(self, keywords: JsonObject, name: str) -> list[Json]:
        patterned = keywords.get("patternProperties", {})
        found = [member for source, member in patterned.items() if self.evaluator.found_in(source, name)]
        if name in keywords.get("properties", {}):
            found.append(keywords["properties"][name])
        return found or [keywords.get("additionalProperties", True)]

    def corrected(self, schema: JsonObject, value: Json) -> Json:
        """The value as it fits the schema best."""
        errors = self._count_errors(schema, value)
        for _ in range(_MAX_ROUNDS if errors else 0):
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
        keywords = self._keywords(schema)
        for member in self._in_place(keywords):
            yield self.apply(_Coercer.corrected, [member], value)
        if isinstance(value, dict | list):
            whole = self._apply_inside(_Coercer.corrected, keywords, value)
            yield whole
            if isinstance(whole, dict):  # without what is null, which its schema forbids, and need not be there
                required = frozenset(keywords.get("required", ()))
                yield {
                    name: item
                    for name, item in whole.items()
                    if item is not None
                    or name in required
                    or not any(self._count_errors(member, None) for member in self._of_property(keywords, name))
                }
        for spelling in _spellings(keywords, value):
            inside = isinstance(spelling, dict | list)
            yield self.apply(_Coercer.corrected, [schema], spelling) if inside else spelling

    def _wrapped(self, schema: JsonObject, value: Json) -> Iterator[Json]:
        """The value as the one item of a list, where it is an item as it stands and no list in words."""
        keywords = self._keywords(schema)
        if "array" in keywords.get("type", ()) and not isinstance(value, list | None):
            items = _of_item(keywords, 0)
            if items and items is not True and not (isinstance(value, str) and re.search(r"[,;\n]", value)):
                yield [value]

    def converted(self, schema: JsonObject, value: Json) -> Json:
        """The value with whole floats as integers where a schema that it matches asks for integers, or lists them."""
        keywords = self._keywords(schema)
        if isinstance(value, float):
            value = _number(keywords, value)
        elif isinstance(value, dict | list):
            value = _unless_same(value, self._apply_inside(_Coercer.converted, keywords, value))
        else:
            return value
        matching = [member for member in self._in_place(keywords) if self.evaluator.outcome(member, value) is not False]
        return self.apply(_Coercer.converted, matching, value)


def _of_item(keywords: JsonObject, index: int) -> Json:
    prefix = keywords.get("prefixItems", ())
    return prefix[index] if index < len(prefix) else keywords.get("items", True)


def _listed(keywords: JsonObject) -> list[Json]:
    return [*keywords.get("enum", ()), *([keywords["const"]] if "const" in keywords else ())]


def _number(keywords: JsonObject, value: float) -> int | float:
    if not value.is_integer() or abs(value) > MAX_INTEGER:
        return value
    types = keywords.get("type", ())
    is_listed = any(type(item) is int and item == value for item in _listed(keywords))
    return int(value) if is_listed or ("integer" in types and "number" not in types) else value


def _has_whole_float(value: Json) -> bool:
    if isinstance(value, dict | list):
        return any(map(_has_whole_float, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and value.is_integer()


def _spellings(keywords: JsonObject, value: Json) -> Iterator[Json]:
    """What the value is when read as one of the types or listed values of the schema."""
    types = keywords.get("type", ())
    if isinstance(value, str):
        for parsed in _parsed(value):
            if type_of(parsed) in types or (is_integer(parsed) and "integer" in types):
                yield parsed
    elif isinstance(value, bool | int) and "string" in types:
        yield json.dumps(value)
    if not isinstance(value, dict | list):
        scalars = [item for item in _listed(keywords) if not isinstance(item, dict | list)]
        alike = [item for item in scalars if _spelled(item) == _spelled(value)]
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
