"""A validator of the `jsonschema` library for one document, with the rules of `rules.py` in place of its own."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

from jsonschema import FormatChecker, validators
from jsonschema.protocols import Validator
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from proxy.translate.schema.dialect import Dialect
from proxy.translate.schema.document import Document
from proxy.translate.schema.rules import RULES, Errors, Rule
from proxy.translate.schema.values import Json


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
