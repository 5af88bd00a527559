"""A validator of the `jsonschema` library for one document, with rules of our own where the library's could stall, fail or fetch."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any, cast

from jsonschema import FormatChecker, ValidationError, validators
from jsonschema.protocols import Validator
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from proxy.translate.schema.dialect import Dialect
from proxy.translate.schema.document import Document
from proxy.translate.schema.formats import has_format
from proxy.translate.schema.notes import cut, told
from proxy.translate.schema.patterns import pattern
from proxy.translate.schema.values import Json, identity, kind_of

Errors = Iterator[ValidationError]
Rule = Callable[[Any, Any, Json, Json], Any]
"""(validator, value of the keyword, instance, schema) → the errors, or None."""


class OutOfSteps(Exception):
    """Judging takes too long. Never leaves this room."""


class Judge:
    """Judges values by the schemas of one document.

    Args:
        document: the schemas.
        steps: how many keywords may be looked at, over all calls.
    """

    def __init__(self, document: Document, steps: int) -> None:
        self._validator: Any = _validator_class(document.dialect)(
            document.root, registry=EMPTY_REGISTRY, format_checker=_Meter(document, steps)
        )

    def errors(self, instance: Json, schema: Json = None) -> Errors:
        """What is wrong with a value by a schema of the document, or by its root.

        Raises:
            OutOfSteps: the steps are used up.
            RecursionError: the value is nested too deeply.
        """
        validator = self._validator if schema is None else self._validator.evolve(schema=schema)
        return cast(Errors, validator.iter_errors(instance))


class _Meter(FormatChecker):
    """Counts steps and knows the document. It takes the place of the library's format checker, as that is the one thing that
    travels with a validator to all its parts."""

    def __init__(self, document: Document, steps: int) -> None:
        super().__init__(formats=())
        self.document = document
        self.left = steps

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OutOfSteps


@lru_cache(maxsize=8)
def _validator_class(dialect: Dialect) -> type[Validator]:
    rules: dict[str, Rule] = dict(dialect.validator.VALIDATORS)
    rules |= {keyword: rule for keyword, rule in RULES.items() if keyword in rules}
    rules |= {keyword: _where_certain(rules[keyword]) for keyword in _UNEVALUATED if keyword in rules}
    extend = cast(Callable[..., type[Validator]], validators.extend)
    return extend(dialect.validator, {keyword: _counted(rule) for keyword, rule in rules.items()})


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


def _reference(validator: Any, _reference: str, instance: Json, schema: Json) -> Errors:
    yield from validator.descend(instance, validator.format_checker.document.targets[id(schema)])


def _dynamic_reference(validator: Any, _reference: str, instance: Json, schema: Json) -> Errors:
    yield from validator.descend(instance, validator.format_checker.document.dynamic.get(id(schema), True))


def _type(validator: Any, types: Json, instance: Json, schema: Json) -> Errors:
    """Also OpenAPI's `nullable`, which the drafts do not know."""
    named = types if isinstance(types, list) else [types]
    allowed = any(validator.is_type(instance, name) for name in named)
    if not allowed and not (instance is None and schema.get("nullable") is True):
        yield ValidationError(f"expected {' or '.join(named)}, got {kind_of(instance)}")


def _pattern(_validator: Any, source: str, instance: Json, _schema: Json) -> Errors:
    if isinstance(instance, str) and pattern(source).found_in(instance) is False:
        yield ValidationError(f"does not match {cut(source, 80)}")


def _format(_validator: Any, name: str, instance: Json, _schema: Json) -> Errors:
    if isinstance(instance, str) and not has_format(instance, name):
        yield ValidationError(f"is not of format {name}")


def _pattern_properties(validator: Any, patterned: Json, instance: Json, _schema: Json) -> Errors:
    if isinstance(instance, dict):
        for source, member in patterned.items():
            for name in instance:
                if pattern(source).found_in(name):
                    yield from validator.descend(instance[name], member, path=name, schema_path=source)


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


def _required(_validator: Any, names: list[str], instance: Json, _schema: Json) -> Errors:
    if isinstance(instance, dict):
        for name in names:
            if name not in instance:
                yield ValidationError(f"missing property {told(name)}")


def _multiple_of(_validator: Any, divisor: int | float, instance: Json, _schema: Json) -> Errors:
    """Of the numbers as written, not of their nearest binary fractions: 0.3 is a multiple of 0.1."""
    if kind_of(instance) != "number":
        return
    try:
        whole = (_fraction(instance) / _fraction(divisor)).denominator == 1
    except (ValueError, OverflowError):  # not a finite number
        whole = False
    if not whole:
        yield ValidationError(f"is not a multiple of {divisor}")


def _fraction(number: int | float) -> Fraction:
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


def _unique_items(_validator: Any, wanted: bool, instance: Json, _schema: Json) -> Errors:
    """The library compares each with each where items are objects."""
    if wanted and isinstance(instance, list) and len(set(map(identity, instance))) < len(instance):
        yield ValidationError("has repeated items")


RULES: Mapping[str, Rule] = {
    "$ref": _reference,
    "$dynamicRef": _dynamic_reference,
    "$recursiveRef": _dynamic_reference,
    "type": _type,
    "pattern": _pattern,
    "format": _format,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "required": _required,
    "multipleOf": _multiple_of,
    "uniqueItems": _unique_items,
}
