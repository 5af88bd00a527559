"""Validating a value against the schema as the client wrote it, formats asserted, in bounded time.

The validators of the `jsonschema` library, with rules of our own where the library's could stall, fail, fetch, or quote the whole value.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from typing import Any, cast

from jsonschema import FormatChecker, validators
from jsonschema import ValidationError as _Error
from jsonschema.protocols import Validator
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from proxy.schemas.compile import CompiledSchema
from proxy.schemas.describe import cut, quoted
from proxy.schemas.document import Document
from proxy.schemas.drafts import Draft
from proxy.schemas.formats import has_format
from proxy.schemas.patterns import pattern
from proxy.schemas.values import Budget, Json, JsonType, format_path, identity, same, type_of

Errors = Iterator[_Error]
Rule = Callable[[Any, Any, Json, Json], Any]
"""(validator, value of the keyword, instance, schema) → the errors, or None."""

_STEPS = 50_000
"""Keywords evaluated for one value."""


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
        notes: what the caller should report although the value is accepted, in a few words each.
    """

    errors: tuple[ValidationError, ...] = ()
    notes: tuple[str, ...] = ()


def validate(compiled: CompiledSchema, instance: object, budget: Budget | None = None) -> Validation:
    """Compare a value with the original schema.

    Args:
        compiled: from `compile_schema` or `compile_parameters`.
        instance: a JSON value of any type and depth.
        budget: the request's; None: a budget for this value alone.

    Returns:
        The first errors, at most `compiled.limits.max_errors`; none when the value matches.
    """
    if compiled.must_be_object and not isinstance(instance, dict):
        return Validation((ValidationError("$", f"expected object, got {type_of(instance)}"),))
    found: list[ValidationError] = []
    try:
        for error in islice(Checker(compiled.document, _STEPS).errors(instance), compiled.limits.max_errors):
            found.append(_validation_error(error))
    except RecursionError:
        found.append(ValidationError("$", "nested too deeply to be checked"))
    except StepsExhausted:
        found.append(ValidationError("$", "too large to be checked against this schema"))
    return Validation(tuple(found))


def _validation_error(error: _Error) -> ValidationError:
    error = _most_telling(error)
    return ValidationError(format_path("$", error.absolute_path), cut(_message(error), 200))


def _most_telling(error: _Error) -> _Error:
    """Of failed alternatives, the first fault of the one that was meant, where only one has the right type."""
    while error.validator in {"anyOf", "oneOf"} and error.context:
        branches: dict[Any, list[_Error]] = {}
        for inner in error.context:
            if inner.relative_schema_path:  # a false schema has none
                branches.setdefault(inner.relative_schema_path[0], []).append(inner)
        meant = [faults for faults in branches.values() if not any(map(_excludes, faults))]
        if len(meant) != 1:
            return error
        error = meant[0][0]
    return error


def _excludes(error: _Error) -> bool:
    """Whether an alternative was not meant: the value has another type, or a property another of the listed values."""
    depth = len(error.relative_path)
    return (error.validator == "type" and depth == 0) or (error.validator in {"const", "enum"} and depth <= 1)


_WORDS: Mapping[str, str] = {
    "dependentRequired": "a property that another one asks for is missing",
    "dependencies": "a property that another one asks for is missing",
    "unevaluatedItems": "has more items than described",
    "unevaluatedProperties": "has properties that are not described",
}
"""For the errors of the library, whose own messages may quote the value."""


def _message(error: _Error) -> str:
    keyword = str(error.validator)
    if keyword in RULES:
        return error.message
    return _WORDS.get(keyword, "nothing is allowed here")


class StepsExhausted(Exception):
    """Judging takes too long. Never leaves this room."""


class Checker:
    """Judges values by the schemas of one document.

    Args:
        document: the schemas.
        steps: how many keywords may be looked at, over all calls.
    """

    def __init__(self, document: Document, steps: int) -> None:
        self._validator: Any = _validator_class(document.draft)(
            document.root, registry=EMPTY_REGISTRY, format_checker=_Meter(document, steps)
        )

    def errors(self, instance: Json, schema: Json = None) -> Errors:
        """What is wrong with a value by a schema of the document, or by its root.

        Raises:
            StepsExhausted: the steps are used up.
            RecursionError: the value is nested too deeply.
        """
        validator = self._validator if schema is None else self._validator.evolve(schema=schema)
        return cast(Errors, validator.iter_errors(instance))


class _Meter(FormatChecker):
    """Counts steps, knows the document, remembers. It takes the place of the library's format checker, as that is the one thing
    that travels with a validator to all its parts."""

    def __init__(self, document: Document, steps: int) -> None:
        super().__init__(formats=())
        self.document = document
        self.left = steps
        self.judged: dict[tuple[int, int], Any] = {}
        """What was found of a part of the value by a schema that is referred to."""

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise StepsExhausted


@lru_cache(maxsize=8)
def _validator_class(draft: Draft) -> type[Validator]:
    rules: dict[str, Rule] = dict(draft.validator.VALIDATORS)
    rules |= {keyword: rule for keyword, rule in RULES.items() if keyword in rules}
    rules |= {keyword: _where_certain(rules[keyword]) for keyword in _UNEVALUATED if keyword in rules}
    extend = cast(Callable[..., type[Validator]], validators.extend)
    return extend(draft.validator, {keyword: _counted(rule) for keyword, rule in rules.items()})


def _counted(rule: Rule) -> Rule:
    def counted(validator: Any, value: Any, instance: Json, schema: Json) -> Any:
        validator.format_checker.spend()
        return rule(validator, value, instance, schema)

    return counted


_UNEVALUATED = ("unevaluatedItems", "unevaluatedProperties")


def _where_certain(rule: Rule) -> Rule:
    """What counts as evaluated the library finds with a backtracking engine where properties are named by patterns, and by
    resolving references anew: left out where that could stall or fail."""

    def guarded(validator: Any, value: Any, instance: Json, schema: Json) -> Any:
        if validator.format_checker.document.patterned:
            return ()
        try:
            return list(rule(validator, value, instance, schema))
        except (Unresolvable, ValueError, LookupError, AttributeError, TypeError):
            return ()

    return guarded


_MAX_ERRORS = 200

# ---------------------------------------------------------------- references and combinations


def _reference(validator: Any, _reference: str, instance: Json, schema: Json) -> Errors:
    return _named(validator, instance, validator.format_checker.document.targets[id(schema)])


def _dynamic_reference(validator: Any, _reference: str, instance: Json, schema: Json) -> Errors:
    return _named(validator, instance, validator.format_checker.document.dynamic.get(id(schema), True))


def _named(validator: Any, instance: Json, target: Json) -> Errors:
    """By a schema that is referred to, once for each part of the value: else each level of a union of recursive schemas would
    multiply the memo."""
    judged = validator.format_checker.judged
    key = (id(target), id(instance))
    if key not in judged:
        errors = list(islice(_judged(validator, instance, target), _MAX_ERRORS))
        judged[key] = (list(map(_copy, errors)), instance)  # the part is kept, so that its id stays its own
        yield from errors
    else:
        yield from map(_copy, judged[key][0])


def _copy(error: _Error) -> _Error:
    """An error as it is before those who pass it on add where they found it."""
    return _Error(
        error.message,
        validator=error.validator,
        validator_value=error.validator_value,
        path=error.relative_path,
        schema_path=error.relative_schema_path,
    )


def _judged(validator: Any, instance: Json, schema: Json, **where: Any) -> Errors:
    """By a schema context, without the library's message for `false`, which quotes the value."""
    if schema is False:
        error = _Error("nothing is allowed here")
        if "path" in where:
            error.path.append(where["path"])
        yield error
    else:
        yield from validator.descend(instance, schema, **where)


def _any_of(validator: Any, members: list[Json], instance: Json, _schema: Json) -> Errors:
    context: list[_Error] = []
    for index, member in enumerate(members):
        errors = list(_judged(validator, instance, member, schema_path=index))
        if not errors:
            return
        context.extend(errors)
    yield _Error("matches none of the alternatives", context=context)


def _one_of(validator: Any, members: list[Json], instance: Json, _schema: Json) -> Errors:
    context: list[_Error] = []
    matching = 0
    for index, member in enumerate(members):
        errors = list(_judged(validator, instance, member, schema_path=index))
        matching += not errors
        context.extend(errors)
    if matching == 0:
        yield _Error("matches none of the alternatives", context=context)
    elif matching > 1:
        yield _Error(f"matches {matching} of the alternatives, not one")


def _not(validator: Any, denied: Json, instance: Json, _schema: Json) -> Errors:
    if next(_judged(validator, instance, denied), None) is None:
        yield _Error("nothing is allowed here" if denied == {} else "matches what is excluded")


# ---------------------------------------------------------------- one value


def _type(validator: Any, types: Json, instance: Json, schema: Json) -> Errors:
    """Also OpenAPI's `nullable`, which the drafts do not know."""
    named = types if isinstance(types, list) else [types]
    allowed = any(validator.is_type(instance, name) for name in named)
    if not allowed and not (instance is None and schema.get("nullable") is True):
        yield _Error(f"expected {' or '.join(named)}, got {type_of(instance)}")


def _enum(_validator: Any, values: list[Json], instance: Json, _schema: Json) -> Errors:
    if not any(same(value, instance) for value in values):
        yield _Error(f"expected one of {', '.join(quoted(value, 40) for value in values[:20])}")


def _const(_validator: Any, value: Json, instance: Json, _schema: Json) -> Errors:
    if not same(value, instance):
        yield _Error(f"expected {quoted(value)}")


def _of(kind: JsonType, holds: Callable[[Any, Any, Any], bool], message: str) -> Rule:
    """A rule for values of one type: (value, what the keyword says, schema) → whether it holds."""

    def rule(_validator: Any, expected: Any, instance: Json, schema: Json) -> Errors:
        if type_of(instance) == kind and not holds(instance, expected, schema):
            yield _Error(message.format(cut(str(expected), 80)))

    return rule


def _is_multiple(value: int | float, divisor: int | float, _schema: Json) -> bool:
    """Of the numbers as written, not of their nearest binary fractions: 0.3 is a multiple of 0.1."""
    try:
        return (_fraction(value) / _fraction(divisor)).denominator == 1
    except (ValueError, OverflowError):  # not a finite number
        return False


def _fraction(number: int | float) -> Fraction:
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


def _is_at_least(value: int | float, bound: int | float, schema: Json) -> bool:
    return value > bound or (value == bound and schema.get("exclusiveMinimum") is not True)  # a boolean in draft 4


def _is_at_most(value: int | float, bound: int | float, schema: Json) -> bool:
    return value < bound or (value == bound and schema.get("exclusiveMaximum") is not True)


# ---------------------------------------------------------------- objects and arrays


def _required(_validator: Any, names: list[str], instance: Json, _schema: Json) -> Errors:
    if isinstance(instance, dict):
        for name in names:
            if name not in instance:
                yield _Error(f"missing property {quoted(name)}")


def _pattern_properties(validator: Any, patterned: Json, instance: Json, _schema: Json) -> Errors:
    if isinstance(instance, dict):
        for source, member in patterned.items():
            for name in instance:
                if pattern(source).found_in(name):
                    yield from _judged(validator, instance[name], member, path=name, schema_path=source)


def _additional_properties(validator: Any, others: Json, instance: Json, schema: Json) -> Errors:
    if isinstance(instance, dict):
        for name in instance:
            if name in schema.get("properties", ()) or _may_be_patterned(name, schema):
                continue
            if others is False:
                yield _Error(f"unexpected property {quoted(name)}")
            else:
                yield from validator.descend(instance[name], others, path=name)


def _may_be_patterned(name: str, schema: Json) -> bool:
    return any(pattern(source).found_in(name) is not False for source in schema.get("patternProperties", ()))


def _additional_items(validator: Any, rest: Json, instance: Json, schema: Json) -> Errors:
    """The library fails where `items` is a boolean."""
    prefix = schema.get("items")
    if isinstance(instance, list) and isinstance(prefix, list):
        for index, item in enumerate(instance[len(prefix) :], start=len(prefix)):
            yield from _judged(validator, item, rest, path=index)


def _contains(validator: Any, member: Json, instance: Json, schema: Json) -> Errors:
    if isinstance(instance, list):
        counted = validator.format_checker.document.draft.knows("minContains")
        least, most = (schema.get("minContains", 1), schema.get("maxContains")) if counted else (1, None)
        matching = sum(next(_judged(validator, item, member), None) is None for item in instance)
        if matching < least or (most is not None and matching > most):
            yield _Error(
                f"has {matching} items of the form wanted, not {least} to {most if most is not None else 'any number'}"
            )


def _is_unique(items: list[Json], wanted: bool, _schema: Json) -> bool:
    """The library compares each with each where items are objects."""
    return not wanted or len(set(map(identity, items))) == len(items)


RULES: Mapping[str, Rule] = {
    "$ref": _reference,
    "$dynamicRef": _dynamic_reference,
    "$recursiveRef": _dynamic_reference,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "type": _type,
    "enum": _enum,
    "const": _const,
    "minLength": _of("string", lambda text, least, _: len(text) >= least, "expected at least {} characters"),
    "maxLength": _of("string", lambda text, most, _: len(text) <= most, "expected at most {} characters"),
    "pattern": _of("string", lambda text, source, _: pattern(source).found_in(text) is not False, "does not match {}"),
    "format": _of("string", lambda text, name, _: has_format(text, name), "is not of format {}"),
    "minimum": _of("number", _is_at_least, "is below the minimum of {}"),
    "maximum": _of("number", _is_at_most, "is above the maximum of {}"),
    "exclusiveMinimum": _of("number", lambda value, bound, _: value > bound, "expected more than {}"),
    "exclusiveMaximum": _of("number", lambda value, bound, _: value < bound, "expected less than {}"),
    "multipleOf": _of("number", _is_multiple, "is not a multiple of {}"),
    "minItems": _of("array", lambda items, least, _: len(items) >= least, "expected at least {} items"),
    "maxItems": _of("array", lambda items, most, _: len(items) <= most, "expected at most {} items"),
    "uniqueItems": _of("array", _is_unique, "has repeated items"),
    "additionalItems": _additional_items,
    "contains": _contains,
    "required": _required,
    "minProperties": _of("object", lambda value, least, _: len(value) >= least, "expected at least {} properties"),
    "maxProperties": _of("object", lambda value, most, _: len(value) <= most, "expected at most {} properties"),
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}
