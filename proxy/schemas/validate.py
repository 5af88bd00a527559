"""Validating a value against the schema as the client wrote it, formats asserted, in bounded time.

An evaluator of our own: it cannot stall, fail, fetch, or quote the value in a message. What cannot be decided in bounded time (a pattern
that RE2 does not run, a value that is too large) is never an error, it is a note.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from proxy.errors import SchemaTooComplex
from proxy.schemas.compile import CompiledSchema
from proxy.schemas.describe import cut
from proxy.schemas.document import Document
from proxy.schemas.keywords import MAX_KEPT, RULES, Failure
from proxy.schemas.patterns import Pattern, pattern
from proxy.schemas.values import Budget, Json, TooLarge, format_path, identity, is_heavy, type_of

_STEPS = 100_000
"""Keywords evaluated for one value; 1 to 4 µs each."""
_STEPS_OF_LIGHT = 8_000
"""The same where schema and value are small enough to be handled on an event loop."""
_MAX_ERRORS = 10
_MAX_NOTES = 10
_CHUNK = 128
_EXCLUDING = {"": 1_000, "type": 0, "const": 1, "enum": 1}
"""Keywords whose failure, at most so many levels deep, means that the alternative was not meant: another type, another listed value."""


@dataclass(frozen=True, slots=True)
class ValidationError:
    """One way in which a value does not match: where, such as `$.items[2].price`, and what is wrong, in a few words that quote nothing of
    the value but the names of its properties.
    """

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Validation:
    """Why a value does not match (no errors: it is accepted), and notes on what the caller should report although it is accepted: parts
    that could not be checked in bounded time, and values that match several alternatives of a `oneOf`.
    """

    errors: tuple[ValidationError, ...] = ()
    notes: tuple[str, ...] = ()


def validate(compiled: CompiledSchema, instance: object, budget: Budget | None = None) -> Validation:
    """Compare a JSON value of any type and depth, after `coerce`, with the original schema. Gives the first ten errors, none when the value
    matches. `budget` is the request's; None: a budget for this value alone.
    """
    if compiled.must_be_object and not isinstance(instance, dict):
        return Validation((ValidationError("$", f"expected object, got {type_of(instance)}"),))
    errors: list[ValidationError] = []
    notes: dict[str, None] = {}
    try:
        evaluator = Evaluator(compiled.document, instance, budget or Budget())
        for failure in evaluator.failures(compiled.document.root, instance):
            if failure.note is None:
                errors.append(_validation_error(failure))
            elif len(notes) < _MAX_NOTES:
                notes[f"{format_path('$', reversed(failure.path))}: {cut(failure.message, 200)}"] = None
            if len(errors) >= _MAX_ERRORS:
                break
    except RecursionError:
        notes["$: nested too deeply to be checked"] = None
    except (TooLarge, SchemaTooComplex):
        notes["$: too large to be checked completely"] = None
    return Validation(tuple(errors), tuple(notes))


def _validation_error(failure: Failure) -> ValidationError:
    """The failure; of failed alternatives, the first one of the alternative that was meant, where only one has the right type."""
    path = list(failure.path)
    while failure.branches:
        meant = [
            branch
            for branch in failure.branches
            if not any(len(inner.path) <= _EXCLUDING.get(inner.keyword, -1) for inner in branch)
        ]
        if len(meant) != 1:
            break
        failure = meant[0][0]
        path = [*failure.path, *path]
    return ValidationError(format_path("$", reversed(path)), cut(failure.message, 200))


class Evaluator:
    """Evaluates schemas of one document. The size of the value and of the schemas decides how many keywords may be evaluated over all
    calls, for which the request's budget pays.
    """

    def __init__(self, document: Document, value: Json, budget: Budget) -> None:
        self.document: Document = document
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
        """Take steps. Raises TooLarge: this evaluation has none left. SchemaTooComplex: the request has none left."""
        self._chunk -= steps
        if self._chunk < 0:
            taken = _CHUNK - self._chunk
            self._chunk = _CHUNK
            self._left -= taken
            if self._left < -_CHUNK:
                raise TooLarge
            self._budget.spend(taken // 3)  # one takes about a third of a step of compilation

    def failures(self, schema: Json, value: Json) -> Iterator[Failure]:
        """Why a value does not match a schema of the document, and notes. Raises as `spend`, and RecursionError."""
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
            keywords = self.document.keywords[id(schema)]
            for keyword, expected in keywords.items():
                only, rule = RULES.get(keyword, (None, None))
                if rule is not None:
                    self.spend()
                    if only is None or only == kind:
                        yield from rule(self, expected, value, keywords)
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
            found = list(islice(self.failures(target, value), MAX_KEPT))
            self._results[key] = (found, value)  # the part is kept, so that its id stays its own
        for failure in self._results[key][0]:
            yield replace(failure, path=list(failure.path))

    def dynamic_target(self, initial: Json, anchor: str | None) -> Json:
        """What a `$dynamicRef` names here: the anchor of the outermost schema resource in scope that has it."""
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
