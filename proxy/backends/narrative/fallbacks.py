"""Simpler forms for what an upstream refuses, and the memory of what was refused.

A schema that a model's upstream refuses is met with a simpler form: the tool's arguments, or the structured output, as JSON text. That
is remembered for the schema that was refused, by digest, and not for the model: one client's unusual schema must not
cost other clients the structure of theirs. Only a refusal of tool blocks in the history is a property of the model.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Final

import orjson

from proxy.backends.narrative.failures import Cause
from proxy.catalog import ModelCard
from proxy.inference.request import Request

ANSWER: Final = "answer"
"""The name of the structured output among the parts of an output schema; tools have their upstream names."""
TOOLS_SIMPLE: Final = "written in the simple form, with arguments as JSON text"
_MAX_REMEMBERED: Final = 4_096
_IN_EVERY_PATH: Final = frozenset({"description", "items", "properties", "required", "schema", "type"})
"""Keywords in the path of every error in an output schema, which tell nothing."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a request is written for a model, beside what the model's card says. Its text is kept with each submission.

    Attributes:
        simple: names of the parts whose schema is replaced by JSON text.
        text_history: past tool calls and results are written as text.
    """

    simple: frozenset[str] = frozenset()
    text_history: bool = False

    def __str__(self) -> str:
        return f"{'text' if self.text_history else 'blocks'}:{','.join(sorted(self.simple))}"

    @classmethod
    def parse(cls, text: str) -> "Form":
        """The form of that text; the plain form for a text that is none."""
        history, _, simple = text.partition(":")
        return cls(frozenset(filter(None, simple.split(","))), history == "text")


PLAIN: Final = Form()


@dataclass(frozen=True, slots=True)
class Part:
    """A client's schema within an output schema.

    Attributes:
        name: upstream name of the tool, or `ANSWER`.
        source: the schema as the client wrote it.
        schema: as it was sent.
    """

    name: str
    source: Any
    schema: Any


def simpler(form: Form, parts: Sequence[Part], cause: Cause, text: str) -> Form | None:
    """The form for another try after a refusal, None when there is nothing simpler to try.

    Args:
        form: the form that was refused.
        parts: of the output schema that was refused, those in simple form too.
        text: Narrative's own text, which may tell what is to blame.
    """
    if cause is Cause.TOOL_BLOCKS and not form.text_history:
        return replace(form, text_history=True)
    if cause is not Cause.INVALID_SCHEMA:
        return None
    left = [part for part in parts if part.name not in form.simple]
    if not left:
        return None
    if form.simple:  # the first guess was wrong
        return replace(form, simple=frozenset(part.name for part in parts))
    return replace(form, simple=frozenset(_suspects(left, text)))


def _suspects(parts: Sequence[Part], text: str) -> Iterable[str]:
    """The parts that a refusal is about: those it names, else those that use a keyword or property it names, else all."""
    words = set(re.findall(r"[A-Za-z0-9_-]+", text))
    if re.search(r"\breg(ex|ular expression)", text, re.IGNORECASE):
        words.add("pattern")
    named = [part.name for part in parts if part.name in words]
    using = [part.name for part in parts if not _keys(part.schema).isdisjoint(words - _IN_EVERY_PATH)]
    return named or using or [part.name for part in parts]


def _keys(schema: Any) -> set[str]:
    """The keywords and property names of a schema."""
    found: set[str] = set()
    todo = [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            found |= node.keys()
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    return found


@dataclass(slots=True)
class Fallbacks:
    """What was learned while serving, for a while and within bounds. One per process.

    Attributes:
        ttl_s: seconds after which the plain form is tried again.
    """

    ttl_s: float = 3600.0
    clock: Callable[[], float] = time.monotonic
    _until: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        """How much is remembered."""
        return len(self._until)

    def form(self, card: ModelCard, request: Request, names: Callable[[Request], Mapping[str, str]]) -> Form:
        """The form in which to write a request.

        Args:
            names: gives each tool name of a request its upstream name.
        """
        text_history = self._knows(card.id, _HISTORY)
        if not self._until:
            return Form(text_history=text_history)
        upstream = names(request)
        digests = {upstream[tool.name]: schema_digest(tool.parameters) for tool in request.tools}
        if request.output is not None:
            digests[ANSWER] = schema_digest(request.output.schema)
        if self._knows(card.id, _together(digests.values())):
            return Form(frozenset(digests), text_history)
        return Form(frozenset(name for name, digest in digests.items() if self._knows(card.id, digest)), text_history)

    def learn(self, card: ModelCard, form: Form, parts: Sequence[Part]) -> None:
        """Remember the form that worked after a plainer one was refused.

        When all of several parts had to be simplified, any of them may have been to blame: then their combination is remembered.
        """
        if form.text_history and card.tool_history != "text":
            self._remember(card.id, _HISTORY)
        digests = {part.name: schema_digest(part.source) for part in parts}
        if len(parts) > 1 and form.simple >= digests.keys():
            self._remember(card.id, _together(digests.values()))
            return
        for name in form.simple & digests.keys():
            self._remember(card.id, digests[name])

    def _knows(self, model: str, what: str) -> bool:
        until = self._until.get((model, what))
        if until is not None and self.clock() >= until:
            del self._until[model, what]
            return False
        return until is not None

    def _remember(self, model: str, what: str) -> None:
        self._until[model, what] = self.clock() + self.ttl_s
        self._until.move_to_end((model, what))
        while len(self._until) > _MAX_REMEMBERED:
            self._until.popitem(last=False)


_HISTORY: Final = "tool blocks in the history"


def schema_digest(schema: Any) -> str:
    """A digest by which equal schemas are recognized."""
    try:
        data = orjson.dumps(schema)
    except TypeError:  # integers beyond 64 bits, lone surrogates
        data = repr(schema).encode("utf-8", "replace")
    return blake2b(data, digest_size=16).hexdigest()


def _together(digests: Iterable[str]) -> str:
    return "all of " + schema_digest(sorted(digests))


def describe(form: Form, card: ModelCard, parts: Sequence[Part]) -> tuple[str, ...]:
    """What a form changes, as sentences for the client."""
    tools = [part.name for part in parts if part.name != ANSWER]
    simple = [name for name in tools if name in form.simple]
    sentences = []
    if simple and card.tool_encoding != "text":
        which = "" if len(simple) == len(tools) else f"{_listed(simple)} "
        sentences.append(f"tools: {which}{TOOLS_SIMPLE}")
    if ANSWER in form.simple and card.tool_encoding != "text":
        sentences.append("structured output: written in the simple form, as JSON text")
    if form.text_history and card.tool_history != "text":
        sentences.append("history: past tool calls and results written as text")
    return tuple(sentences)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
