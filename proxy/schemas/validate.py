"""Validating a value against the schema as the client wrote it, formats asserted, in bounded time.

An evaluator of our own: it cannot stall, fail, fetch, or quote the value in a message. What cannot be decided in bounded time (a pattern
that RE2 does not run, a value that is too large) is never an error, it is a note.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import Any, Literal, cast

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
_NOT_KNOWN: object = object()


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


class StepsExhausted(Exception):
    """Evaluating one value takes too long. Caught inside this package."""


def _validation_error(failure: Failure) -> ValidationError:
    path = list(failure.path)
    while (
        failure.branches
    ):  # of failed alternatives, the first failure of the one that was meant, where only one has the right type
        meant = [branch for branch in failure.branches if not any(map(_excludes, branch))]
        if len(meant) != 1:
            break
        failure = meant[0][0]
        path = [*failure.path, *path]
    return ValidationError(format_path("$", reversed(path)), cut(failure.message, 200))


def _excludes(failure: Failure) -> bool:
    """Whether an alternative was not meant: the value has another type, or a property another of the listed values."""
    depth = len(failure.path)
    return (
        not failure.keyword
        or (failure.keyword == "type" and depth == 0)
        or (failure.keyword in {"const", "enum"} and depth <= 1)
    )


def _errors(failures: Failures) -> list[Failure]:
    return [failure for failure in failures if failure.note is None]


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
        try:
            for keyword, expected in self.document.keywords[id(schema)].items():
                rule = _RULES.get(keyword)
                if rule is not None:
                    self.spend()
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
            yield Failure(failure.keyword, failure.message, list(failure.path), failure.branches, failure.note)

    def dynamic_target(self, schema: JsonObject) -> Json:
        """What a `$dynamicRef` names here: the anchor of the outermost schema resource in scope that has it."""
        target = self.document.dynamic[id(schema)]
        if target.anchor is not None:
            for resource in self._scope:
                found = self.document.anchors.get((resource, target.anchor))
                if found is not None:
                    return found
        return target.initial

    def found_in(self, source: str, text: str) -> bool | None:
        """Whether a pattern is found in a text; None when that cannot be decided."""
        known = self._found.get((source, text), _NOT_KNOWN)
        if known is _NOT_KNOWN:
            prepared = self._patterns.get(source)
            if prepared is None:
                prepared = self._patterns[source] = pattern(source)
                self.spend(prepared.size // 4)
            self.spend(1 + prepared.cost(text) // 500)
            known = self._found[source, text] = prepared.found_in(text)
        return cast(bool | None, known)

    def key(self, value: Json) -> str:
        """`identity`, paid for by its length."""
        text = identity(value)
        self.spend(len(text) // 32)
        return text


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


# ---------------------------------------------------------------- references and combinations


def _reference(evaluator: Evaluator, _expected: str, value: Json, schema: JsonObject) -> Failures:
    return evaluator.named(evaluator.document.targets[id(schema)], value)


def _dynamic_reference(evaluator: Evaluator, _expected: str, value: Json, schema: JsonObject) -> Failures:
    return evaluator.named(evaluator.dynamic_target(schema), value)


def _all_of(evaluator: Evaluator, members: list[Json], value: Json, _schema: JsonObject) -> Failures:
    for member in members:
        yield from evaluator.failures(member, value)


def _any_of(evaluator: Evaluator, members: list[Json], value: Json, _schema: JsonObject) -> Failures:
    branches: list[list[Failure]] = []
    undecided: list[Failure] = []
    for member in members:
        failures = list(islice(evaluator.failures(member, value), _MAX_KEPT))
        errors = _errors(failures)
        if errors:
            branches.append(errors)
        elif any(failure.note == "unchecked" for failure in failures):
            undecided = undecided or failures
        else:
            return failures
    return undecided or [Failure("anyOf", "matches none of the alternatives", branches=branches)]


def _one_of(evaluator: Evaluator, members: list[Json], value: Json, _schema: JsonObject) -> Failures:
    branches: list[list[Failure]] = []
    matching: list[list[Failure]] = []
    undecided: list[list[Failure]] = []
    for member in members:
        failures = list(islice(evaluator.failures(member, value), _MAX_KEPT))
        errors = _errors(failures)
        if errors:
            branches.append(errors)
        elif any(failure.note == "unchecked" for failure in failures):
            undecided.append(failures)
        else:
            matching.append(failures)
    if len(matching) > 1:
        message = f"matches {len(matching)} of the alternatives, not one"
        return [Failure("oneOf", message, note=None if evaluator.exact else "ambiguous")]
    if undecided and (not matching or evaluator.exact):
        return undecided[0]
    return matching[0] if matching else [Failure("oneOf", "matches none of the alternatives", branches=branches)]


def _not(evaluator: Evaluator, denied: Json, value: Json, _schema: JsonObject) -> Failures:
    match evaluator.outcome(denied, value, exact=True):
        case True:
            return (Failure("not", "nothing is allowed here" if denied in (True, {}) else "matches what is excluded"),)
        case None:
            return (Failure("not", "what is excluded could not be checked", note="unchecked"),)
        case _:
            return ()


def _if(evaluator: Evaluator, condition: Json, value: Json, schema: JsonObject) -> Failures:
    holds = evaluator.outcome(condition, value, exact=True)
    if holds is None:
        return (Failure("if", "the condition could not be checked", note="unchecked"),)
    keywords = evaluator.document.keywords[id(schema)]
    return evaluator.failures(keywords.get("then" if holds else "else", True), value)


# ---------------------------------------------------------------- one value

Rule = Callable[[Evaluator, Any, Json, JsonObject], Failures]
"""(evaluator, value of the keyword, instance, schema) → failures."""


def _has_type(value: Json, name: str) -> bool:
    if name == "integer":
        return is_integer(value)
    return type_of(value) == name


def _type(_evaluator: Evaluator, types: Json, value: Json, _schema: JsonObject) -> Failures:
    named = types if isinstance(types, list) else [types]
    if any(_has_type(value, name) for name in named):
        return ()
    return (Failure("type", f"expected {' or '.join(dict.fromkeys(named))}, got {type_of(value)}"),)


def _equal(evaluator: Evaluator, expected: Json, value: Json) -> bool:
    if isinstance(value, dict | list):
        return (
            type(expected) is type(value)
            and len(expected) == len(value)
            and evaluator.key(expected) == evaluator.key(value)
        )
    return bool(expected == value) and isinstance(expected, bool) is isinstance(value, bool)


def _enum(evaluator: Evaluator, values: list[Json], value: Json, _schema: JsonObject) -> Failures:
    evaluator.spend(len(values) // 8)
    if any(_equal(evaluator, expected, value) for expected in values):
        return ()
    return (Failure("enum", f"expected one of {', '.join(quoted(expected, 40) for expected in values[:20])}"),)


def _const(evaluator: Evaluator, expected: Json, value: Json, _schema: JsonObject) -> Failures:
    return () if _equal(evaluator, expected, value) else (Failure("const", f"expected {quoted(expected)}"),)


def _of(kind: JsonType, keyword: str, message: str, holds: Callable[[Any, Any], bool]) -> Rule:
    """A rule for values of one type: (value, what the keyword says) → whether it holds."""

    def rule(_evaluator: Evaluator, expected: Any, value: Json, _schema: JsonObject) -> Failures:
        if type_of(value) != kind or holds(value, expected):
            return ()
        return (Failure(keyword, message.format(cut(str(expected), 80))),)

    return rule


def _is_multiple(value: int | float, divisor: int | float) -> bool:
    """Of the numbers as written, not of their nearest binary fractions: 0.3 is a multiple of 0.1."""
    try:
        return (_fraction(value) / _fraction(divisor)).denominator == 1
    except (ValueError, OverflowError):  # not a finite number
        return False


def _fraction(number: int | float) -> Fraction:
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


def _pattern(evaluator: Evaluator, source: str, value: Json, _schema: JsonObject) -> Failures:
    if not isinstance(value, str):
        return ()
    match evaluator.found_in(source, value):
        case False:
            return (Failure("pattern", f"does not match {cut(source, 80)}"),)
        case None:
            return (Failure("pattern", f"the pattern {cut(source, 80)} was not checked", note="unchecked"),)
        case _:
            return ()


def _format(evaluator: Evaluator, name: str, value: Json, _schema: JsonObject) -> Failures:
    if not isinstance(value, str):
        return ()
    evaluator.spend(1 + len(value) // 1_000)
    match has_format(value, name):
        case False:
            return (Failure("format", f"is not of format {cut(name, 80)}"),)
        case None:
            return (Failure("format", f"the format {cut(name, 80)} was not checked", note="unchecked"),)
        case _:
            return ()


# ---------------------------------------------------------------- objects and arrays


def _required(_evaluator: Evaluator, names: list[str], value: Json, _schema: JsonObject) -> Failures:
    if not isinstance(value, dict):
        return ()
    return [Failure("required", f"missing property {quoted(name)}") for name in names if name not in value]


def _properties(evaluator: Evaluator, members: JsonObject, value: Json, _schema: JsonObject) -> Failures:
    if isinstance(value, dict):
        for name, member in members.items():
            if name in value:
                yield from _inside(evaluator.failures(member, value[name]), name)


def _pattern_properties(evaluator: Evaluator, patterned: JsonObject, value: Json, _schema: JsonObject) -> Failures:
    if isinstance(value, dict):
        for source, member in patterned.items():
            for name in value:
                match evaluator.found_in(source, name):
                    case True:
                        yield from _inside(evaluator.failures(member, value[name]), name)
                    case None:
                        message = f"the pattern {cut(source, 80)} was not checked"
                        yield Failure("patternProperties", message, [name], note="unchecked")


def _additional_properties(evaluator: Evaluator, others: Json, value: Json, schema: JsonObject) -> Failures:
    if isinstance(value, dict):
        keywords = evaluator.document.keywords[id(schema)]
        patterns = keywords.get("patternProperties", ())
        for name in value:
            evaluator.spend()
            if name in keywords.get("properties", ()) or any(
                evaluator.found_in(source, name) is not False for source in patterns
            ):
                continue
            if others is False:
                yield Failure("additionalProperties", f"unexpected property {quoted(name)}")
            else:
                yield from _inside(evaluator.failures(others, value[name]), name)


def _property_names(evaluator: Evaluator, member: Json, value: Json, _schema: JsonObject) -> Failures:
    if isinstance(value, dict):
        for name in value:
            for failure in evaluator.failures(member, name):
                message = failure.message if failure.keyword else f"unexpected property {quoted(name)}"
                yield Failure("propertyNames", message, [name], note=failure.note)


def _dependent_required(_evaluator: Evaluator, needs: JsonObject, value: Json, _schema: JsonObject) -> Failures:
    if not isinstance(value, dict):
        return ()
    missing = any(need not in value for name, names in needs.items() if name in value for need in names)
    return (Failure("dependentRequired", "a property that another one asks for is missing"),) if missing else ()


def _dependent_schemas(evaluator: Evaluator, members: JsonObject, value: Json, _schema: JsonObject) -> Failures:
    if isinstance(value, dict):
        for name, member in members.items():
            if name in value:
                yield from evaluator.failures(member, value)


def _prefix_items(evaluator: Evaluator, members: list[Json], value: Json, _schema: JsonObject) -> Failures:
    if isinstance(value, list):
        for index, (member, item) in enumerate(zip(members, value, strict=False)):
            yield from _inside(evaluator.failures(member, item), index)


def _items(evaluator: Evaluator, member: Json, value: Json, schema: JsonObject) -> Failures:
    if isinstance(value, list) and member is not True:
        first = len(evaluator.document.keywords[id(schema)].get("prefixItems", ()))
        for index in range(first, len(value)):
            yield from _inside(evaluator.failures(member, value[index]), index)


def _contains(evaluator: Evaluator, member: Json, value: Json, schema: JsonObject) -> Failures:
    if not isinstance(value, list):
        return ()
    keywords = evaluator.document.keywords[id(schema)]
    least, most = keywords.get("minContains", 1), keywords.get("maxContains")
    outcomes = [evaluator.outcome(member, item, exact=True) for item in value]
    matching, undecided = outcomes.count(True), outcomes.count(None)
    if matching + undecided < least or (most is not None and matching > most):
        wanted = f"{least} to {most if most is not None else 'any number'}"
        return (Failure("contains", f"has {matching} items of the form wanted, not {wanted}"),)
    if matching < least or (most is not None and matching + undecided > most):
        return (Failure("contains", "some items could not be checked", note="unchecked"),)
    return ()


def _unique_items(evaluator: Evaluator, wanted: bool, value: Json, _schema: JsonObject) -> Failures:
    if not wanted or not isinstance(value, list):
        return ()
    evaluator.spend(len(value))
    if len(set(map(evaluator.key, value))) == len(value):
        return ()
    return (Failure("uniqueItems", "has repeated items"),)


# ---------------------------------------------------------------- what is left unevaluated


def _unevaluated_properties(evaluator: Evaluator, others: Json, value: Json, schema: JsonObject) -> Failures:
    if isinstance(value, dict):
        evaluated = _evaluated(evaluator, schema, value, _property_keys, top=True)
        for name in value:
            if name not in evaluated and evaluator.outcome(others, value[name]) is False:
                return (Failure("unevaluatedProperties", "has properties that are not described"),)
    return ()


def _unevaluated_items(evaluator: Evaluator, others: Json, value: Json, schema: JsonObject) -> Failures:
    if isinstance(value, list):
        evaluated = _evaluated(evaluator, schema, value, _item_keys, top=True)
        for index, item in enumerate(value):
            if index not in evaluated and evaluator.outcome(others, item) is False:
                return (Failure("unevaluatedItems", "has more items than described"),)
    return ()


Own = Callable[[Evaluator, JsonObject, Any, bool], set[Any]]


def _evaluated(evaluator: Evaluator, schema: Json, value: Json, own: Own, *, top: bool = False) -> set[Any]:
    """The names or indexes that a schema and the schemas applied in place of it evaluate; where undecided, as if they did."""
    if isinstance(schema, bool):
        return set()
    evaluator.spend()
    keywords = evaluator.document.keywords[id(schema)]
    found = own(evaluator, keywords, value, top)
    for member in _applied(evaluator, schema, keywords, value):
        found |= _evaluated(evaluator, member, value, own)
    return found


def _applied(evaluator: Evaluator, schema: JsonObject, keywords: JsonObject, value: Json) -> Iterator[Json]:
    """The subschemas that apply to the same value, and that it matches."""
    if "$ref" in keywords:
        yield evaluator.document.targets[id(schema)]
    if "$dynamicRef" in keywords:
        yield evaluator.dynamic_target(schema)
    yield from keywords.get("allOf", ())
    for keyword in ("anyOf", "oneOf"):
        for member in keywords.get(keyword, ()):
            if evaluator.outcome(member, value) is not False:
                yield member
    if "if" in keywords:
        holds = evaluator.outcome(keywords["if"], value, exact=True)
        if holds is not False:
            yield keywords["if"]
            yield keywords.get("then", True)
        if not holds:
            yield keywords.get("else", True)
    for name, member in keywords.get("dependentSchemas", {}).items():
        if isinstance(value, dict) and name in value:
            yield member


def _property_keys(evaluator: Evaluator, keywords: JsonObject, value: JsonObject, top: bool) -> set[str]:
    if "additionalProperties" in keywords or ("unevaluatedProperties" in keywords and not top):
        return set(value)
    found = {name for name in keywords.get("properties", ()) if name in value}
    for source in keywords.get("patternProperties", ()):
        found |= {name for name in value if evaluator.found_in(source, name) is not False}
    return found


def _item_keys(evaluator: Evaluator, keywords: JsonObject, value: list[Json], top: bool) -> set[int]:
    if "items" in keywords or ("unevaluatedItems" in keywords and not top):
        return set(range(len(value)))
    found = set(range(len(keywords.get("prefixItems", ()))))
    if "contains" in keywords and evaluator.document.draft.rank >= 2020:
        found |= {
            index
            for index, item in enumerate(value)
            if evaluator.outcome(keywords["contains"], item, exact=True) is not False
        }
    return found


_RULES: Mapping[str, Rule] = {
    "$ref": _reference,
    "$dynamicRef": _dynamic_reference,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
    "type": _type,
    "enum": _enum,
    "const": _const,
    "minLength": _of("string", "minLength", "expected at least {} characters", lambda text, least: len(text) >= least),
    "maxLength": _of("string", "maxLength", "expected at most {} characters", lambda text, most: len(text) <= most),
    "pattern": _pattern,
    "format": _format,
    "minimum": _of("number", "minimum", "is below the minimum of {}", lambda value, bound: value >= bound),
    "maximum": _of("number", "maximum", "is above the maximum of {}", lambda value, bound: value <= bound),
    "exclusiveMinimum": _of("number", "exclusiveMinimum", "expected more than {}", lambda value, bound: value > bound),
    "exclusiveMaximum": _of("number", "exclusiveMaximum", "expected less than {}", lambda value, bound: value < bound),
    "multipleOf": _of("number", "multipleOf", "is not a multiple of {}", _is_multiple),
    "minItems": _of("array", "minItems", "expected at least {} items", lambda items, least: len(items) >= least),
    "maxItems": _of("array", "maxItems", "expected at most {} items", lambda items, most: len(items) <= most),
    "uniqueItems": _unique_items,
    "prefixItems": _prefix_items,
    "items": _items,
    "contains": _contains,
    "unevaluatedItems": _unevaluated_items,
    "required": _required,
    "minProperties": _of(
        "object", "minProperties", "expected at least {} properties", lambda value, least: len(value) >= least
    ),
    "maxProperties": _of(
        "object", "maxProperties", "expected at most {} properties", lambda value, most: len(value) <= most
    ),
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "propertyNames": _property_names,
    "dependentRequired": _dependent_required,
    "dependentSchemas": _dependent_schemas,
    "unevaluatedProperties": _unevaluated_properties,
}
