"""Simpler forms for what an upstream refuses, and the memory of what was refused.

A schema that a model's upstream refuses is met with a simpler form: the tool's arguments, or the structured output, as JSON text. That
is remembered for the schema that was refused, by digest, and not for the model: one client's unusual schema must not
cost other clients the structure of theirs. Only a refusal of tool blocks in the history is a property of the model.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import orjson

from proxy.backends.narrative.failures import Cause
from proxy.backends.narrative.prompt import HISTORY, Form, offered_tools
from proxy.backends.narrative.tools import ANSWER
from proxy.catalog import ModelCard
from proxy.inference.history import upstream_names
from proxy.inference.jsontext import dump_json
from proxy.inference.request import Request


def simpler(form: Form, parts: Mapping[str, Any], cause: Cause, text: str) -> Form | None:
    """The form for another try after `form` was refused, with its parts as of `OutputFormat`; None when there is nothing simpler to try.

    Narrative's own text may tell what is to blame.
    """
    if cause is Cause.TOOL_BLOCKS and HISTORY not in form:
        return form | {HISTORY}
    if cause is not Cause.INVALID_SCHEMA or form >= parts.keys():
        return None
    if not form <= {HISTORY}:  # the first guess was wrong
        return form.union(parts)
    # It is about the parts that it names, else those that use a keyword or property that it names, else all.
    words = set(re.findall(r"[A-Za-z0-9_-]+", text))
    if re.search(r"\breg(ex|ular expression)", text, re.IGNORECASE):
        words.add("pattern")
    telling = words - {"description", "items", "properties", "required", "schema", "type"}  # which are in every path
    keys = {name: re.findall(r'"([A-Za-z0-9_-]+)":', dump_json(schema)) for name, schema in parts.items()}
    using = [name for name, found in keys.items() if not telling.isdisjoint(found)]
    return form.union(words & parts.keys() or using or parts)


@dataclass(slots=True)
class Fallbacks:
    """What was learned while serving, within bounds. One per process.

    `refused` maps a model and the digest of a schema, or of several together, to when the plain form is tried again: after `ttl_s` seconds.
    """

    ttl_s: float = 3600.0
    clock: Callable[[], float] = time.monotonic
    refused: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)

    def form(self, card: ModelCard, request: Request) -> Form:
        """The form in which to write a request; the plain one as long as nothing was refused."""
        digests = _digests(request)
        refused = {name for name, digest in digests.items() if self._knows(card.id, digest)}
        if self._knows(card.id, _together(digests)):
            refused.update(digests)
        return Form(refused | {HISTORY} if self._knows(card.id, HISTORY) else refused)

    def learn(self, card: ModelCard, request: Request, form: Form) -> None:
        """Remember the form in which a request worked after a plainer one was refused.

        When all of several parts had to be simplified, any of them may have been to blame: then their combination is remembered.
        """
        digests = _digests(request)
        refused = [digests[name] for name in form & digests.keys()]
        if 1 < len(digests) == len(refused):
            refused = [_together(digests)]
        if HISTORY in form and card.tool_history != "text":
            refused.append(HISTORY)
        for what in refused:
            self.refused[card.id, what] = self.clock() + self.ttl_s
            self.refused.move_to_end((card.id, what))
        while len(self.refused) > 4_096:
            self.refused.popitem(last=False)

    def _knows(self, model: str, what: str) -> bool:
        until = self.refused.get((model, what))
        if until is not None and self.clock() >= until:
            del self.refused[model, what]
            return False
        return until is not None


def _digest(schema: Any) -> str:
    """A digest by which equal schemas are recognized."""
    try:
        data = orjson.dumps(schema)
    except TypeError:  # integers beyond 64 bits, lone surrogates
        data = repr(schema).encode("utf-8", "replace")
    return blake2b(data, digest_size=16).hexdigest()


def _digests(request: Request) -> dict[str, str]:
    """The schemas that clients wrote, by the names of the parts they become."""
    names = upstream_names(request.tools, request.messages)
    digests = {names[tool.name]: _digest(tool.parameters) for tool in offered_tools(request)}
    return digests | {ANSWER: _digest(request.output.schema)} if request.output else digests


def _together(digests: Mapping[str, str]) -> str:
    return "all of " + _digest(sorted(digests.values()))
