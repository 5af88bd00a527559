"""Checking a value against the schema as the client wrote it, formats asserted, in bounded time."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jsonschema import ValidationError

from proxy.translate.schema.compile import Compiled
from proxy.translate.schema.faults import dotted
from proxy.translate.schema.judge import Judge, OutOfSteps
from proxy.translate.schema.notes import cut
from proxy.translate.schema.rules import RULES
from proxy.translate.schema.values import kind_of

_STEPS = 50_000
"""Keywords looked at for one value."""


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
    "dependentRequired": "a property that another one asks for is missing",
    "dependencies": "a property that another one asks for is missing",
    "unevaluatedItems": "has more items than described",
    "unevaluatedProperties": "has properties that are not described",
}
"""For the errors of the library, whose own messages may quote the value."""


def _message(error: ValidationError) -> str:
    keyword = str(error.validator)
    if keyword in RULES:
        return error.message
    return _WORDS.get(keyword, "nothing is allowed here")
