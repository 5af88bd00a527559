"""How keywords are checked, where the `jsonschema` library's way could stall, fail, fetch, or quote the whole value in its message."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import islice
from typing import Any

from jsonschema import ValidationError

from proxy.translate.schema.formats import has_format
from proxy.translate.schema.notes import cut, told
from proxy.translate.schema.patterns import pattern
from proxy.translate.schema.values import Json, Kind, identity, kind_of, same

Errors = Iterator[ValidationError]
Rule = Callable[[Any, Any, Json, Json], Any]
"""(validator, value of the keyword, instance, schema) → the errors, or None."""


_MAX_ERRORS = 200

# ---------------------------------------------------------------- references and combinations


def _reference(validator: Any, _reference: str, instance: Json, schema: Json) -> Errors:
    return _named(validator, instance, validator.format_checker.document.targets[id(schema)])


def _dynamic_reference(validator: Any, _reference: str, instance: Json, schema: Json) -> Errors:
    return _named(validator, instance, validator.format_checker.document.dynamic.get(id(schema), True))


def _named(validator: Any, instance: Json, target: Json) -> Errors:
    """By a schema that is referred to, once for each part of the value: else each level of a union of recursive schemas would
    multiply the work."""
    judged = validator.format_checker.judged
    key = (id(target), id(instance))
    if key not in judged:
        errors = list(islice(_judged(validator, instance, target), _MAX_ERRORS))
        judged[key] = (list(map(_copy, errors)), instance)  # the part is kept, so that its id stays its own
        yield from errors
    else:
        yield from map(_copy, judged[key][0])


def _copy(error: ValidationError) -> ValidationError:
    """An error as it is before those who pass it on add where they found it."""
    return ValidationError(
        error.message,
        validator=error.validator,
        validator_value=error.validator_value,
        path=error.relative_path,
        schema_path=error.relative_schema_path,
    )


def _judged(validator: Any, instance: Json, schema: Json, **where: Any) -> Errors:
    """By a schema inside, without the library's message for `false`, which quotes the value."""
    if schema is False:
        error = ValidationError("nothing is allowed here")
        if "path" in where:
            error.path.append(where["path"])
        yield error
    else:
        yield from validator.descend(instance, schema, **where)


def _any_of(validator: Any, members: list[Json], instance: Json, _schema: Json) -> Errors:
    context: list[ValidationError] = []
    for index, member in enumerate(members):
        errors = list(_judged(validator, instance, member, schema_path=index))
        if not errors:
            return
        context.extend(errors)
    yield ValidationError("matches none of the alternatives", context=context)


def _one_of(validator: Any, members: list[Json], instance: Json, _schema: Json) -> Errors:
    context: list[ValidationError] = []
    matching = 0
    for index, member in enumerate(members):
        errors = list(_judged(validator, instance, member, schema_path=index))
        matching += not errors
        context.extend(errors)
    if matching == 0:
        yield ValidationError("matches none of the alternatives", context=context)
    elif matching > 1:
        yield ValidationError(f"matches {matching} of the alternatives, not one")


def _not(validator: Any, denied: Json, instance: Json, _schema: Json) -> Errors:
    if next(_judged(validator, instance, denied), None) is None:
        yield ValidationError("nothing is allowed here" if denied == {} else "matches what is excluded")


# ---------------------------------------------------------------- one value


def _type(validator: Any, types: Json, instance: Json, schema: Json) -> Errors:
    """Also OpenAPI's `nullable`, which the drafts do not know."""
    named = types if isinstance(types, list) else [types]
    allowed = any(validator.is_type(instance, name) for name in named)
    if not allowed and not (instance is None and schema.get("nullable") is True):
        yield ValidationError(f"expected {' or '.join(named)}, got {kind_of(instance)}")


def _enum(_validator: Any, values: list[Json], instance: Json, _schema: Json) -> Errors:
    if not any(same(value, instance) for value in values):
        yield ValidationError(f"expected one of {', '.join(told(value, 40) for value in values[:20])}")


def _const(_validator: Any, value: Json, instance: Json, _schema: Json) -> Errors:
    if not same(value, instance):
        yield ValidationError(f"expected {told(value)}")


def _of(kind: Kind, holds: Callable[[Any, Any, Any], bool], words: str) -> Rule:
    """A rule for values of one type: (value, what the keyword says, schema) → whether it holds."""

    def rule(_validator: Any, said: Any, instance: Json, schema: Json) -> Errors:
        if kind_of(instance) == kind and not holds(instance, said, schema):
            yield ValidationError(words.format(cut(str(said), 80)))

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
                yield ValidationError(f"missing property {told(name)}")


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
                yield ValidationError(f"unexpected property {told(name)}")
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
        counted = validator.format_checker.document.dialect.knows("minContains")
        least, most = (schema.get("minContains", 1), schema.get("maxContains")) if counted else (1, None)
        matching = sum(next(_judged(validator, item, member), None) is None for item in instance)
        if matching < least or (most is not None and matching > most):
            yield ValidationError(
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
