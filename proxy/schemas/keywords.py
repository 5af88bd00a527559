"""What each keyword asks of a value: rules that give failures, by keyword. `validate.py` holds what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from proxy.schemas.describe import cut, quoted
from proxy.schemas.patterns import has_format
from proxy.schemas.values import Json, JsonObject, JsonType, is_integer, type_of

if TYPE_CHECKING:
    from proxy.schemas.validate import Evaluator

MAX_KEPT = 200
"""Failures kept of one alternative, or of one reference."""


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
    branches: list[list[Failure]] = field(default_factory=list)
    note: Literal["unchecked", "ambiguous"] | None = None


Failures = Iterable[Failure]
Rule = Callable[["Evaluator", Any, Any, JsonObject], Failures]
"""(evaluator, what the keyword says, value, all keywords of the schema) → failures."""


def _inside(failures: Failures, step: str | int) -> Iterator[Failure]:
    for failure in failures:
        failure.path.append(step)
        yield failure


def _all(evaluator: Evaluator, members: list[Json], value: Json) -> Failures:
    for member in members:
        yield from evaluator.failures(member, value)


def _alternatives(evaluator: Evaluator, keyword: str, members: list[Json], value: Json) -> Failures:
    branches: list[list[Failure]] = []
    matching: list[list[Failure]] = []
    undecided: list[list[Failure]] = []
    for member in members:
        failures = list(islice(evaluator.failures(member, value), MAX_KEPT))
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


def _not(evaluator: Evaluator, denied: Json, value: Json, _: JsonObject) -> Failures:
    matches = evaluator.outcome(denied, value, exact=True)
    if matches is None:
        return (Failure("not", "what is excluded could not be checked", note="unchecked"),)
    message = "nothing is allowed here" if denied in (True, {}) else "matches what is excluded"
    return (Failure("not", message),) if matches else ()


def _if(evaluator: Evaluator, condition: Json, value: Json, keywords: JsonObject) -> Failures:
    holds = evaluator.outcome(condition, value, exact=True)
    if holds is None:
        return (Failure("if", "the condition could not be checked", note="unchecked"),)
    return evaluator.failures(keywords.get("then" if holds else "else", True), value)


def _type(_evaluator: Evaluator, types: list[str], value: Json, _: JsonObject) -> Failures:
    kind = type_of(value)
    if kind in types or ("integer" in types and is_integer(value)):
        return ()
    return (Failure("type", f"expected {' or '.join(dict.fromkeys(types))}, got {kind}"),)


def _enum(evaluator: Evaluator, values: list[Json], value: Json, _: JsonObject) -> Failures:
    evaluator.spend(len(values) // 8)
    if any(evaluator.equal(expected, value) for expected in values):
        return ()
    return (Failure("enum", f"expected one of {', '.join(quoted(expected, 40) for expected in values[:20])}"),)


def _const(evaluator: Evaluator, expected: Json, value: Json, _: JsonObject) -> Failures:
    return () if evaluator.equal(expected, value) else (Failure("const", f"expected {quoted(expected)}"),)


def _is_multiple(_evaluator: Evaluator, value: int | float, divisor: int | float) -> bool:
    """Of the numbers as written, not of their nearest binary fractions: 0.3 is a multiple of 0.1."""
    try:
        return (Fraction(repr(value)) / Fraction(repr(divisor))).denominator == 1
    except (ValueError, OverflowError):  # not a finite number
        return False


def _has_format(evaluator: Evaluator, text: str, name: str) -> bool | None:
    evaluator.spend(1 + len(text) // 1_000)
    return has_format(text, name)


def _are_unique(evaluator: Evaluator, items: list[Json], wanted: bool) -> bool:
    if not wanted:
        return True
    evaluator.spend(len(items))
    return len(set(map(evaluator.key, items))) == len(items)


def _has_dependent(_evaluator: Evaluator, value: JsonObject, needs: JsonObject) -> bool:
    return all(need in value for name, names in needs.items() if name in value for need in names)


def _required(_evaluator: Evaluator, names: list[str], value: JsonObject, _: JsonObject) -> Failures:
    return [Failure("required", f"missing property {quoted(name)}") for name in names if name not in value]


def _properties(evaluator: Evaluator, members: JsonObject, value: JsonObject, _: JsonObject) -> Failures:
    for name, member in members.items():
        if name in value:
            yield from _inside(evaluator.failures(member, value[name]), name)


def _pattern_properties(evaluator: Evaluator, patterned: JsonObject, value: JsonObject, _: JsonObject) -> Failures:
    for source, member in patterned.items():
        for name in value:
            found = evaluator.found_in(source, name)
            if found:
                yield from _inside(evaluator.failures(member, value[name]), name)
            elif found is None:
                message = f"the pattern {cut(source, 80)} was not checked"
                yield Failure("patternProperties", message, [name], note="unchecked")


def _additional_properties(evaluator: Evaluator, others: Json, value: JsonObject, keywords: JsonObject) -> Failures:
    declared, patterns = keywords.get("properties", ()), keywords.get("patternProperties", ())
    for name in value:
        evaluator.spend()
        if name in declared or any(evaluator.found_in(source, name) is not False for source in patterns):
            continue
        if others is False:
            yield Failure("additionalProperties", f"unexpected property {quoted(name)}")
        else:
            yield from _inside(evaluator.failures(others, value[name]), name)


def _property_names(evaluator: Evaluator, member: Json, value: JsonObject, _: JsonObject) -> Failures:
    for name in value:
        for failure in evaluator.failures(member, name):
            message = failure.message if failure.keyword else f"unexpected property {quoted(name)}"
            yield Failure("propertyNames", message, [name], note=failure.note)


def _dependent_schemas(evaluator: Evaluator, members: JsonObject, value: JsonObject, _: JsonObject) -> Failures:
    return _all(evaluator, [member for name, member in members.items() if name in value], value)


def _prefix_items(evaluator: Evaluator, members: list[Json], value: list[Json], _: JsonObject) -> Failures:
    for index, (member, item) in enumerate(zip(members, value, strict=False)):
        yield from _inside(evaluator.failures(member, item), index)


def _items(evaluator: Evaluator, member: Json, value: list[Json], keywords: JsonObject) -> Failures:
    first = len(keywords.get("prefixItems", ()))
    for index in range(first, len(value) if member is not True else 0):
        yield from _inside(evaluator.failures(member, value[index]), index)


def _contains(evaluator: Evaluator, member: Json, value: list[Json], keywords: JsonObject) -> Failures:
    least, most = keywords.get("minContains", 1), keywords.get("maxContains")
    outcomes = [evaluator.outcome(member, item, exact=True) for item in value]
    matching, undecided = outcomes.count(True), outcomes.count(None)
    if matching + undecided < least or (most is not None and matching > most):
        wanted = f"{least} to {most if most is not None else 'any number'}"
        return (Failure("contains", f"has {matching} items of the form wanted, not {wanted}"),)
    if matching < least or (most is not None and matching + undecided > most):
        return (Failure("contains", "some items could not be checked", note="unchecked"),)
    return ()


def _unevaluated(evaluator: Evaluator, others: Json, value: Json, keywords: JsonObject) -> Failures:
    evaluated = _evaluated(evaluator, keywords, value, top=True)
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    if any(step not in evaluated and evaluator.outcome(others, part) is False for step, part in parts):
        if isinstance(value, dict):
            return (Failure("unevaluatedProperties", "has properties that are not described"),)
        return (Failure("unevaluatedItems", "has more items than described"),)
    return ()


def _evaluated(evaluator: Evaluator, keywords: JsonObject, value: Json, *, top: bool = False) -> set[Any]:
    """The names or indexes that a schema and the schemas applied in place of it evaluate; where undecided, as if they did."""
    evaluator.spend()
    kind = "Properties" if isinstance(value, dict) else "Items"
    if {"Properties": "additionalProperties", "Items": "items"}[kind] in keywords or (
        f"unevaluated{kind}" in keywords and not top
    ):
        return set(value) if isinstance(value, dict) else set(range(len(value)))
    if isinstance(value, dict):
        found: set[Any] = {name for name in keywords.get("properties", ()) if name in value}
        for source in keywords.get("patternProperties", ()):
            found |= {name for name in value if evaluator.found_in(source, name) is not False}
    else:
        found = set(range(len(keywords.get("prefixItems", ()))))
        if "contains" in keywords and evaluator.document.draft >= 2020:
            outcomes = (evaluator.outcome(keywords["contains"], item, exact=True) for item in value)
            found |= {index for index, outcome in enumerate(outcomes) if outcome is not False}
    for member in _applied(evaluator, keywords, value):
        if isinstance(member, dict):
            found |= _evaluated(evaluator, evaluator.document.keywords[id(member)], value)
    return found


def _applied(evaluator: Evaluator, keywords: JsonObject, value: Json) -> Iterator[Json]:
    """The subschemas that apply to the same value, and that it matches."""
    if "$ref" in keywords:
        yield keywords["$ref"]
    if "$dynamicRef" in keywords:
        yield evaluator.dynamic_target(*keywords["$dynamicRef"])
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


_ASSERTIONS: Mapping[str, tuple[JsonType, str, Callable[[Evaluator, Any, Any], bool | None]]] = {
    "minLength": ("string", "expected at least {} characters", lambda _, text, least: len(text) >= least),
    "maxLength": ("string", "expected at most {} characters", lambda _, text, most: len(text) <= most),
    "pattern": ("string", "does not match {}", lambda evaluator, text, source: evaluator.found_in(source, text)),
    "format": ("string", "is not of format {}", _has_format),
    "minimum": ("number", "is below the minimum of {}", lambda _, number, bound: number >= bound),
    "maximum": ("number", "is above the maximum of {}", lambda _, number, bound: number <= bound),
    "exclusiveMinimum": ("number", "expected more than {}", lambda _, number, bound: number > bound),
    "exclusiveMaximum": ("number", "expected less than {}", lambda _, number, bound: number < bound),
    "multipleOf": ("number", "is not a multiple of {}", _is_multiple),
    "minItems": ("array", "expected at least {} items", lambda _, items, least: len(items) >= least),
    "maxItems": ("array", "expected at most {} items", lambda _, items, most: len(items) <= most),
    "uniqueItems": ("array", "has repeated items", _are_unique),
    "minProperties": ("object", "expected at least {} properties", lambda _, value, least: len(value) >= least),
    "maxProperties": ("object", "expected at most {} properties", lambda _, value, most: len(value) <= most),
    "dependentRequired": ("object", "a property that another one asks for is missing", _has_dependent),
}
"""Keyword → the JSON type it is about, the message, and (evaluator, value, what the keyword says) → whether it holds; None: undecided."""


def _assertion(keyword: str) -> Rule:
    _, message, holds = _ASSERTIONS[keyword]

    def rule(evaluator: Evaluator, expected: Any, value: Json, _: JsonObject) -> Failures:
        result = holds(evaluator, value, expected)
        if result:
            return ()
        shown = cut(str(expected), 80)
        if result is None:
            return (Failure(keyword, f"the {keyword} {shown} was not checked", note="unchecked"),)
        return (Failure(keyword, message.format(shown)),)

    return rule


RULES: Mapping[str, tuple[JsonType | None, Rule]] = {
    "$ref": (None, lambda evaluator, target, value, _: evaluator.named(target, value)),
    "$dynamicRef": (None, lambda evaluator, found, value, _: evaluator.named(evaluator.dynamic_target(*found), value)),
    "allOf": (None, lambda evaluator, members, value, _: _all(evaluator, members, value)),
    "anyOf": (None, lambda evaluator, members, value, _: _alternatives(evaluator, "anyOf", members, value)),
    "oneOf": (None, lambda evaluator, members, value, _: _alternatives(evaluator, "oneOf", members, value)),
    "not": (None, _not),
    "if": (None, _if),
    "type": (None, _type),
    "enum": (None, _enum),
    "const": (None, _const),
    "prefixItems": ("array", _prefix_items),
    "items": ("array", _items),
    "contains": ("array", _contains),
    "unevaluatedItems": ("array", _unevaluated),
    "required": ("object", _required),
    "properties": ("object", _properties),
    "patternProperties": ("object", _pattern_properties),
    "additionalProperties": ("object", _additional_properties),
    "propertyNames": ("object", _property_names),
    "dependentSchemas": ("object", _dependent_schemas),
    "unevaluatedProperties": ("object", _unevaluated),
    **{keyword: (kind, _assertion(keyword)) for keyword, (kind, _, _) in _ASSERTIONS.items()},
}
"""Keyword → the JSON type of the values it says anything of (None: all), and its rule."""
