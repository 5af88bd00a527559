"""Checking a value against the schema as the client wrote it, formats asserted, in bounded time."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jsonschema import ValidationError

from proxy.translate.schema.compile import Compiled
from proxy.translate.schema.faults import dotted
from proxy.translate.schema.judge import RULES, Judge, OutOfSteps
from proxy.translate.schema.notes import cut, told
from proxy.translate.schema.values import kind_of

_STEPS = 100_000
"""Keywords looked at for one value: some hundred milliseconds."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One way in which a value does not match.

    Attributes:
        path: where, such as `$.items[2].price`.
        message: what is wrong, in a few words; tells nothing of the value but the names of its properties.
    """

    path: str
    message: str


def check(compiled: Compiled, instance: object) -> tuple[Violation, ...]:
    """Compare a value with the original schema.

    Args:
        compiled: from `compile_schema` or `compile_parameters`.
        instance: a JSON value of any kind and depth.

    Returns:
        The first violations, at most `compiled.limits.max_violations`; none when the value matches. A value that cannot be judged
        within bounds has a violation that says so.
    """
    if compiled.must_be_object and not isinstance(instance, dict):
        return (Violation("$", f"expected object, got {kind_of(instance)}"),)
    found: list[Violation] = []
    try:
        for error in islice(Judge(compiled.document, _STEPS).errors(instance), compiled.limits.max_violations):
            found.append(_violation(error))
    except RecursionError:
        found.append(Violation("$", "nested too deeply to be checked"))
    except OutOfSteps:
        found.append(Violation("$", "too large to be checked against this schema"))
    return tuple(found)


def _violation(error: ValidationError) -> Violation:
    error = _most_telling(error)
    return Violation(dotted("$", error.absolute_path), cut(_message(error), 200))


def _most_telling(error: ValidationError) -> ValidationError:
    """Of failed alternatives, the first fault of the one that was meant, where only one has the right type."""
    while error.validator in {"anyOf", "oneOf"} and error.context:
        branches: dict[Any, list[ValidationError]] = {}
        for inner in error.context:
            if inner.relative_schema_path:  # a false schema has none
                branches.setdefault(inner.relative_schema_path[0], []).append(inner)
        meant = [faults for faults in branches.values() if not any(map(_excludes, faults))]
        if len(meant) != 1:
            return error
        error = meant[0][0]
    return error


def _excludes(error: ValidationError) -> bool:
    """Whether an alternative was not meant: the value has another type, or a property another of the listed values."""
    depth = len(error.relative_path)
    return (error.validator == "type" and depth == 0) or (error.validator in {"const", "enum"} and depth <= 1)


_WORDS: Mapping[str, str] = {
    "const": "expected {}",
    "minLength": "expected at least {} characters",
    "maxLength": "expected at most {} characters",
    "minItems": "expected at least {} items",
    "maxItems": "expected at most {} items",
    "minProperties": "expected at least {} properties",
    "maxProperties": "expected at most {} properties",
    "minContains": "expected at least {} items of one form",
    "maxContains": "expected at most {} items of one form",
    "contains": "expected an item of the form asked for",
    "minimum": "expected {} or more",
    "exclusiveMinimum": "expected more than {}",
    "maximum": "expected {} or less",
    "exclusiveMaximum": "expected less than {}",
    "anyOf": "matches none of the alternatives",
    "oneOf": "does not match exactly one of the alternatives",
    "not": "matches what is excluded",
    "dependentRequired": "a property that another one asks for is missing",
    "dependencies": "a property that another one asks for is missing",
    "additionalItems": "has more items than described",
    "unevaluatedItems": "has more items than described",
    "unevaluatedProperties": "has properties that are not described",
}


def _message(error: ValidationError) -> str:
    keyword, value = str(error.validator), error.validator_value
    if keyword == "enum" and isinstance(value, list):
        return f"expected one of {', '.join(told(item, 40) for item in value[:20])}"
    if keyword in RULES:
        return error.message
    return _WORDS.get(
        keyword, "nothing is allowed here" if error.validator is None else f"does not satisfy {keyword}"
    ).format(told(value))
