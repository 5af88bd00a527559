"""Validating a value against the schema as the client wrote it, formats asserted, in bounded time.

An evaluator of our own: it cannot stall, fail, fetch, or quote the value in a message. What cannot be decided in bounded time (a pattern
that RE2 does not run, a value that is too large) is never an error, it is a note.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from operator import ge, gt, le, lt
from typing import Any, Literal

from proxy.errors import SchemaTooComplex
from proxy.schemas.compile import CompiledSchema
from proxy.schemas.describe import cut, quoted
from proxy.schemas.document import Document
from proxy.schemas.formats import has_format
from proxy.schemas.patterns import Pattern, pattern
from proxy.schemas.values import (
    Budget,
    Json,
    JsonObject,
    JsonType,
    format_path,
    identity,
    is_heavy,
    is_integer,
    type_of,
)

_STEPS = 100_000
"""Keywords evaluated for one value; 1 to 4 µs each."""
_STEPS_OF_LIGHT = 8_000
"""The same where schema and value are small enough to be handled on an event loop."""
_MAX_NOTES = 10
_MAX_KEPT = 200
_CHUNK = 128


@dataclass(frozen=True, slots=True)
class ValidationError:
    """One way in which a value does not match.

    Attributes:
        path: where, such as `$.items[2].price`.
        message: what is wrong, in a few words; quotes nothing of the value but the names of its properties.
    """

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Validation:
    """What validating a value found.

    Attributes:
        errors: why the value does not match; empty: it is accepted.
        notes: what the caller should report although the value is accepted: parts that could not be checked in bounded time, and
            values that match several alternatives of a `oneOf`.
    """

    errors: tuple[ValidationError, ...] = ()
    notes: tuple[str, ...] = ()


def validate(compiled: CompiledSchema, instance: object, budget: Budget | None = None) -> Validation:
    """Compare a value with the original schema.

    Args:
        compiled: from `compile_schema` or `compile_parameters`.
        instance: a JSON value of any type and depth, after `coerce`.
        budget: the request's; None: a budget for this value alone.

    Returns:
        The first errors, at most `compiled.limits.max_errors`; none when the value matches.
    """
    if compiled.must_be_object and not isinstance(instance, dict):
        return Validation((ValidationError("$", f"expected object, got {type_of(instance)}"),))
    errors: list[ValidationError] = []
    notes: dict[str, None] = {}
    try:
        for failure in Evaluator(compiled.document, instance, budget or Budget()).failures(
            compiled.document.root, instance
        ):
            if failure.note is None:
                errors.append(_validation_error(failure))
            elif len(notes) < _MAX_NOTES:
                notes[f"{format_path('$', reversed(failure.path))}: {cut(failure.message, 200)}"] = None
            if len(errors) >= compiled.limits.max_errors:
                break
    except RecursionError:
        notes["$: nested too deeply to be checked"] = None
    except (StepsExhausted, SchemaTooComplex):
        notes["$: too large to be checked completely"] = None
    return Validation(tuple(errors), tuple(notes))


# ---------------------------------------------------------------- failures

Note = Literal["unchecked", "ambiguous"]


@dataclass(slots=True)
class Failure:
    """What evaluating a schema found.

    Attributes:
        keyword: the keyword concerned; empty for the schema `false`.
        message: what is wrong.
        path: keys and indexes to the part of the value, innermost first; added to on the way out.
        branches: the failures of each alternative of an `anyOf` or `oneOf`.
        note: None for an error. `unchecked`: it could not be decided. `ambiguous`: several alternatives of a `oneOf` match.
    """

    keyword: str
    message: str
    path: list[str | int] = field(default_factory=list)
    branches: "list[list[Failure]]" = field(default_factory=list)
    note: Note | None = None


Failures = Iterable[Failure]
Rule = Callable[["Evaluator", Any, Any, JsonObject], Failures]
"""(evaluator, what the keyword says, value, schema) → failures."""


class StepsExhausted(Exception):
    """Evaluating one value takes too long. Caught inside this package."""


def _validation_error(failure: Failure) -> ValidationError:
    """The failure; of failed alternatives, the first one of the alternative that was meant, where only one has the right type."""
    path = list(failure.path)
    while failure.branches:
        meant = [branch for branch in failure.branches if not any(map(_excludes, branch))]
        if len(meant) != 1:
            break
        failure = meant[0][0]
        path = [*failure.path, *path]
    return ValidationError(format_path("$", reversed(path)), cut(failure.message, 200))


def _excludes(failure: Failure) -> bool:
    """Whether an alternative was not meant: the value has another type, or a property another of the listed values."""
    deepest = {"": 1_000, "type": 0, "const": 1, "enum": 1}.get(failure.keyword, -1)
    return len(failure.path) <= deepest


# ---------------------------------------------------------------- the evaluator


class Evaluator:
    """Evaluates schemas of one document.

    Args:
        document: the schemas.
        value: what is to be evaluated; its size and that of the schemas decide how many keywords may be, over all calls.
        budget: the request's, which pays for them.
    """

    def __init__(self, document: Document, value: Json, budget: Budget) -> None:
        self.document = document
        self._left = _STEPS if is_heavy(_least_size(value, document.size)) else _STEPS_OF_LIGHT
        self._budget = budget
        self._chunk = 0
        self._results: dict[tuple[object, ...], tuple[list[Failure], Json]] = {}
        self._found: dict[tuple[str, str], bool | None] = {}
        self._patterns: dict[str, Pattern] = {}
        self._scope: tuple[str, ...] = ()
        self.exact = False
        """Whether several matching alternatives of a `oneOf` are an error: where accepting them would refuse the value elsewhere."""

    def spend(self, steps: int = 1) -> None:
        """Take steps.

        Raises:
            StepsExhausted: this evaluation has none left.
            SchemaTooComplex: the request has none left.
        """
        self._chunk -= steps
        if self._chunk < 0:
            taken = _CHUNK - self._chunk
            self._chunk = _CHUNK
            self._left -= taken
            if self._left < -_CHUNK:
                raise StepsExhausted
            self._budget.spend(taken // 3)  # one takes about a third of a step of compilation

    def keywords(self, schema: JsonObject) -> JsonObject:
        """The keywords of a schema, as draft 2020-12 spells them."""
        return self.document.keywords[id(schema)]

    def failures(self, schema: Json, value: Json) -> Iterator[Failure]:
        """Why a value does not match a schema of the document, and notes.

        Raises:
            StepsExhausted, SchemaTooComplex: as `spend`.
            RecursionError: the value is nested too deeply.
        """
        if schema is True:
            return
        if schema is False:
            yield Failure("", "nothing is allowed here")
            return
        outer = self._scope
        resource = self.document.resources.get(id(schema))
        if resource is not None and resource not in outer:  # only the outermost one counts
            self._scope = (*outer, resource)
        kind = type_of(value)
        try:
            for keyword, expected in self.document.keywords[id(schema)].items():
                only, rule = _RULES.get(keyword, (None, None))
                if rule is not None:
                    self.spend()
                    if only is None or only == kind:
                        yield from rule(self, expected, value, schema)
        finally:
            self._scope = outer

    def outcome(self, schema: Json, value: Json, *, exact: bool | None = None) -> bool | None:
        """Whether a value matches; None when that cannot be decided."""
        outer, self.exact = self.exact, self.exact if exact is None else exact
        try:
            decided = True
            for failure in self.failures(schema, value):
                if failure.note is None:
                    return False
                decided = decided and failure.note != "unchecked"
            return True if decided else None
        finally:
            self.exact = outer

    def named(self, target: Json, value: Json) -> Iterator[Failure]:
        """By a schema that is referred to, once for each part of the value: otherwise each level of a union of recursive schemas would
        multiply the work."""
        key = (id(target), id(value), self.exact, self._scope)
        if key not in self._results:
            found = list(islice(self.failures(target, value), _MAX_KEPT))
            self._results[key] = (found, value)  # the part is kept, so that its id stays its own
        for failure in self._results[key][0]:
            yield replace(failure, path=list(failure.path))

    def dynamic_target(self, schema: JsonObject) -> Json:
        """What a `$dynamicRef` names here: the anchor of the outermost schema resource in scope that has it."""
        initial, anchor = self.document.dynamic[id(schema)]
        found = (self.document.anchors.get((resource, anchor)) for resource in self._scope if anchor is not None)
        return next((target for target in found if target is not None), initial)

    def found_in(self, source: str, text: str) -> bool | None:
        """Whether a pattern is found in a text; None when that cannot be decided."""
        if (source, text) not in self._found:
            if source not in self._patterns:
                self._patterns[source] = pattern(source)
                self.spend(self._patterns[source].size // 4)
            prepared = self._patterns[source]
            self.spend(1 + prepared.cost(text) // 500)
            self._found[source, text] = prepared.found_in(text)
        return self._found[source, text]

    def key(self, value: Json) -> str:
        """`identity`, paid for by its length."""
        text = identity(value)
        self.spend(len(text) // 32)
        return text

    def equal(self, expected: Json, value: Json) -> bool:
        """Whether JSON Schema calls two values equal."""
        if isinstance(value, dict | list):
            alike = type(expected) is type(value) and len(expected) == len(value)
            return alike and self.key(expected) == self.key(value)
        return bool(expected == value) and isinstance(expected, bool) is isinstance(value, bool)


def _least_size(value: Json, size: int) -> int:
    """A lower bound of the bytes of a value as JSON, plus `size`; counted only as long as it is not heavy."""
    left = [value]
    while left and not is_heavy(size):
        item = left.pop()
        size += 2
        if isinstance(item, dict):
            left.extend(item.values())
            size += sum(map(len, item))
        elif isinstance(item, list):
            left.extend(item)
        elif isinstance(item, str):
            size += len(item)
    return size


def _inside(failures: Failures, step: str | int) -> Iterator[Failure]:
    for failure in failures:
        failure.path.append(step)
        yield failure


def _check(keyword: str, holds: bool | None, wrong: str, subject: str = "it was") -> Failures:
    """No failure where a keyword holds; a note where that is not known."""
    if holds:
        return ()
    return (
        Failure(keyword, wrong) if holds is False else Failure(keyword, f"{subject} not checked", note="unchecked"),
    )


# ---------------------------------------------------------------- references and combinations


def _all_of(evaluator: Evaluator, members: list[Json], value: Json, _schema: JsonObject) -> Failures:
    for member in members:
        yield from evaluator.failures(member, value)


def _alternatives(evaluator: Evaluator, keyword: str, members: list[Json], value: Json) -> Failures:
    branches: list[list[Failure]] = []
    matching: list[list[Failure]] = []
    undecided: list[list[Failure]] = []
    for member in members:
        failures = list(islice(evaluator.failures(member, value), _MAX_KEPT))
        errors = [failure for failure in failures if failure.note is None]
        if errors:
            branches.append(errors)
        elif any(failure.note == "unchecked" for failure in failures):
            undecided.append(failures)
        else:
            matching.append(failures)
            if keyword == "anyOf":
                return failures
    if len(matching) > 1:
        message = f"matches {len(matching)} of the alternatives, not one"
        return [Failure("oneOf", message, note=None if evaluator.exact else "ambiguous")]
    if undecided and (not matching or evaluator.exact):
        return undecided[0]
    return matching[0] if matching else [Failure(keyword, "matches none of the alternatives", branches=branches)]


def _not(evaluator: Evaluator, denied: Json, value: Json, _schema: JsonObject) -> Failures:
    matches = evaluator.outcome(denied, value, exact=True)
    wrong = "nothing is allowed here" if denied in (True, {}) else "matches what is excluded"
    return _check("not", None if matches is None else not matches, wrong, "what is excluded could be")


def _if(evaluator: Evaluator, condition: Json, value: Json, schema: JsonObject) -> Failures:
    holds = evaluator.outcome(condition, value, exact=True)
    if holds is None:
        return (Failure("if", "the condition could not be checked", note="unchecked"),)
    return evaluator.failures(evaluator.keywords(schema).get("then" if holds else "else", True), value)


# ---------------------------------------------------------------- one value


def _type(_evaluator: Evaluator, types: Json, value: Json, _schema: JsonObject) -> Failures:
    named = types if isinstance(types, list) else [types]
    kind = type_of(value)
    if kind in named or ("integer" in named and is_integer(value)):
        return ()
    return (Failure("type", f"expected {' or '.join(dict.fromkeys(named))}, got {kind}"),)


def _enum(evaluator: Evaluator, values: list[Json], value: Json, _schema: JsonObject) -> Failures:
    evaluator.spend(len(values) // 8)
    if any(evaluator.equal(expected, value) for expected in values):
        return ()
    return (Failure("enum", f"expected one of {', '.join(quoted(expected, 40) for expected in values[:20])}"),)


def _distinct(evaluator: Evaluator, items: list[Json]) -> bool:
    evaluator.spend(len(items))
    return len(set(map(evaluator.key, items))) == len(items)


def _limit(kind: JsonType, keyword: str, holds: Callable[[Any, Any], bool], message: str) -> tuple[JsonType, Rule]:
    """A rule that compares a number, or the length of anything else, with what the keyword says."""

    def rule(_evaluator: Evaluator, bound: Any, value: Json, _schema: JsonObject) -> Failures:
        if holds(value if kind == "number" else len(value), bound):
            return ()
        return (Failure(keyword, message.format(cut(str(bound), 80))),)

    return kind, rule


def _is_multiple(value: int | float, divisor: int | float) -> bool:
    """Of the numbers as written, not of their nearest binary fractions: 0.3 is a multiple of 0.1."""
    try:
        return (Fraction(repr(value)) / Fraction(repr(divisor))).denominator == 1
    except (ValueError, OverflowError):  # not a finite number
        return False


def _format(evaluator: Evaluator, name: str, value: str, _schema: JsonObject) -> Failures:
    evaluator.spend(1 + len(value) // 1_000)
    shown = cut(name, 80)
    return _check("format", has_format(value, name), f"is not of format {shown}", f"the format {shown} was")


# ---------------------------------------------------------------- objects and arrays


def _properties(evaluator: Evaluator, members: JsonObject, value: JsonObject, _schema: JsonObject) -> Failures:
    for name, member in members.items():
        if name in value:
            yield from _inside(evaluator.failures(member, value[name]), name)


def _pattern_properties(
    evaluator: Evaluator, patterned: JsonObject, value: JsonObject, _schema: JsonObject
) -> Failures:
    for source, member in patterned.items():
        for name in value:
            found = evaluator.found_in(source, name)
            if found:
                yield from _inside(evaluator.failures(member, value[name]), name)
            elif found is None:
                message = f"the pattern {cut(source, 80)} was not checked"
                yield Failure("patternProperties", message, [name], note="unchecked")


def _additional_properties(evaluator: Evaluator, others: Json, value: JsonObject, schema: JsonObject) -> Failures:
    keywords = evaluator.keywords(schema)
    declared, patterns = keywords.get("properties", ()), keywords.get("patternProperties", ())
    for name in value:
        evaluator.spend()
        if name in declared or any(evaluator.found_in(source, name) is not False for source in patterns):
            continue
        if others is False:
            yield Failure("additionalProperties", f"unexpected property {quoted(name)}")
        else:
            yield from _inside(evaluator.failures(others, value[name]), name)


def _property_names(evaluator: Evaluator, member: Json, value: JsonObject, _schema: JsonObject) -> Failures:
    for name in value:
        for failure in evaluator.failures(member, name):
            message = failure.message if failure.keyword else f"unexpected property {quoted(name)}"
            yield Failure("propertyNames", message, [name], note=failure.note)


def _dependent_schemas(evaluator: Evaluator, members: JsonObject, value: JsonObject, _schema: JsonObject) -> Failures:
    for name, member in members.items():
        if name in value:
            yield from evaluator.failures(member, value)


def _prefix_items(evaluator: Evaluator, members: list[Json], value: list[Json], _schema: JsonObject) -> Failures:
    for index, (member, item) in enumerate(zip(members, value, strict=False)):
        yield from _inside(evaluator.failures(member, item), index)


def _items(evaluator: Evaluator, member: Json, value: list[Json], schema: JsonObject) -> Failures:
    first = len(evaluator.keywords(schema).get("prefixItems", ()))
    for index in range(first, len(value) if member is not True else 0):
        yield from _inside(evaluator.failures(member, value[index]), index)


def _contains(evaluator: Evaluator, member: Json, value: list[Json], schema: JsonObject) -> Failures:
    keywords = evaluator.keywords(schema)
    least, most = keywords.get("minContains", 1), keywords.get("maxContains")
    outcomes = [evaluator.outcome(member, item, exact=True) for item in value]
    matching, undecided = outcomes.count(True), outcomes.count(None)
    if matching + undecided < least or (most is not None and matching > most):
        wanted = f"{least} to {most if most is not None else 'any number'}"
        return (Failure("contains", f"has {matching} items of the form wanted, not {wanted}"),)
    if matching < least or (most is not None and matching + undecided > most):
        return (Failure("contains", "some items could not be checked", note="unchecked"),)
    return ()


# ---------------------------------------------------------------- what is left unevaluated


def _unevaluated_properties(evaluator: Evaluator, others: Json, value: JsonObject, schema: JsonObject) -> Failures:
    evaluated = _evaluated(evaluator, schema, value, top=True)
    if any(name not in evaluated and evaluator.outcome(others, item) is False for name, item in value.items()):
        return (Failure("unevaluatedProperties", "has properties that are not described"),)
    return ()


def _unevaluated_items(evaluator: Evaluator, others: Json, value: list[Json], schema: JsonObject) -> Failures:
    evaluated = _evaluated(evaluator, schema, value, top=True)
    if any(index not in evaluated and evaluator.outcome(others, item) is False for index, item in enumerate(value)):
        return (Failure("unevaluatedItems", "has more items than described"),)
    return ()


def _evaluated(evaluator: Evaluator, schema: Json, value: Json, *, top: bool = False) -> set[Any]:
    """The names or indexes that a schema and the schemas applied in place of it evaluate; where undecided, as if they did."""
    if isinstance(schema, bool):
        return set()
    evaluator.spend()
    keywords = evaluator.keywords(schema)
    own = _evaluated_properties if isinstance(value, dict) else _evaluated_items
    found = own(evaluator, keywords, value, top)
    for member in _applied(evaluator, schema, keywords, value):
        found |= _evaluated(evaluator, member, value)
    return found


def _applied(evaluator: Evaluator, schema: JsonObject, keywords: JsonObject, value: Json) -> Iterator[Json]:
    """The subschemas that apply to the same value, and that it matches."""
    if "$ref" in keywords:
        yield evaluator.document.targets[id(schema)]
    if "$dynamicRef" in keywords:
        yield evaluator.dynamic_target(schema)
    yield from keywords.get("allOf", ())
    for member in (*keywords.get("anyOf", ()), *keywords.get("oneOf", ())):
        if evaluator.outcome(member, value) is not False:
            yield member
    if "if" in keywords:
        holds = evaluator.outcome(keywords["if"], value, exact=True)
        if holds is not False:
            yield from (keywords["if"], keywords.get("then", True))
        if not holds:
            yield keywords.get("else", True)
    for name, member in keywords.get("dependentSchemas", {}).items():
        if isinstance(value, dict) and name in value:
            yield member


def _evaluated_properties(evaluator: Evaluator, keywords: JsonObject, value: JsonObject, top: bool) -> set[Any]:
    if "additionalProperties" in keywords or ("unevaluatedProperties" in keywords and not top):
        return set(value)
    found = {name for name in keywords.get("properties", ()) if name in value}
    for source in keywords.get("patternProperties", ()):
        found |= {name for name in value if evaluator.found_in(source, name) is not False}
    return found


def _evaluated_items(evaluator: Evaluator, keywords: JsonObject, value: list[Json], top: bool) -> set[Any]:
    if "items" in keywords or ("unevaluatedItems" in keywords and not top):
        return set(range(len(value)))
    found = set(range(len(keywords.get("prefixItems", ()))))
    if "contains" in keywords and evaluator.document.draft.rank >= 2020:
        outcomes = (evaluator.outcome(keywords["contains"], item, exact=True) for item in value)
        found |= {index for index, outcome in enumerate(outcomes) if outcome is not False}
    return found


_RULES: Mapping[str, tuple[JsonType | None, Rule]] = {
    "$ref": (None, lambda evaluator, _, value, schema: evaluator.named(evaluator.document.targets[id(schema)], value)),
    "$dynamicRef": (None, lambda evaluator, _, value, schema: evaluator.named(evaluator.dynamic_target(schema), value)),
    "allOf": (None, _all_of),
    "anyOf": (None, lambda evaluator, members, value, _: _alternatives(evaluator, "anyOf", members, value)),
    "oneOf": (None, lambda evaluator, members, value, _: _alternatives(evaluator, "oneOf", members, value)),
    "not": (None, _not),
    "if": (None, _if),
    "type": (None, _type),
    "enum": (None, _enum),
    "const": (
        None,
        lambda evaluator, expected, value, _: _check(
            "const", evaluator.equal(expected, value), f"expected {quoted(expected)}"
        ),
    ),
    "minLength": _limit("string", "minLength", ge, "expected at least {} characters"),
    "maxLength": _limit("string", "maxLength", le, "expected at most {} characters"),
    "pattern": (
        "string",
        lambda evaluator, source, value, _: _check(
            "pattern",
            evaluator.found_in(source, value),
            f"does not match {cut(source, 80)}",
            f"the pattern {cut(source, 80)} was",
        ),
    ),
    "format": ("string", _format),
    "minimum": _limit("number", "minimum", ge, "is below the minimum of {}"),
    "maximum": _limit("number", "maximum", le, "is above the maximum of {}"),
    "exclusiveMinimum": _limit("number", "exclusiveMinimum", gt, "expected more than {}"),
    "exclusiveMaximum": _limit("number", "exclusiveMaximum", lt, "expected less than {}"),
    "multipleOf": _limit("number", "multipleOf", _is_multiple, "is not a multiple of {}"),
    "minItems": _limit("array", "minItems", ge, "expected at least {} items"),
    "maxItems": _limit("array", "maxItems", le, "expected at most {} items"),
    "uniqueItems": (
        "array",
        lambda evaluator, wanted, value, _: _check(
            "uniqueItems", not wanted or _distinct(evaluator, value), "has repeated items"
        ),
    ),
    "prefixItems": ("array", _prefix_items),
    "items": ("array", _items),
    "contains": ("array", _contains),
    "unevaluatedItems": ("array", _unevaluated_items),
    "required": (
        "object",
        lambda _e, names, value, _s: (
            Failure("required", f"missing property {quoted(name)}") for name in names if name not in value
        ),
    ),
    "minProperties": _limit("object", "minProperties", ge, "expected at least {} properties"),
    "maxProperties": _limit("object", "maxProperties", le, "expected at most {} properties"),
    "properties": ("object", _properties),
    "patternProperties": ("object", _pattern_properties),
    "additionalProperties": ("object", _additional_properties),
    "propertyNames": ("object", _property_names),
    "dependentRequired": (
        "object",
        lambda _e, needs, value, _s: _check(
            "dependentRequired",
            all(need in value for name, names in needs.items() if name in value for need in names),
            "a property that another one asks for is missing",
        ),
    ),
    "dependentSchemas": ("object", _dependent_schemas),
    "unevaluatedProperties": ("object", _unevaluated_properties),
}
"""Keyword → the JSON type of the values it says anything of (None: all), and its rule."""
