"""What was learned of a model while serving: that its upstream refused a form which its card promises.

A refusal is met once with a simpler form; where that worked, the model keeps it for a while.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.catalog import ModelCard
from proxy.failures import Cause
from proxy.translate.plan import SIMPLE_FORM


def simpler(card: ModelCard, cause: Cause) -> ModelCard | None:
    """The card for another try after a refusal of that cause, None when there is nothing simpler to try."""
    if cause is Cause.INVALID_SCHEMA and card.tool_encoding != "text":
        return card.model_copy(update={"tool_encoding": "text"})
    if cause is Cause.TOOL_BLOCKS and card.tool_history != "text":
        return card.model_copy(update={"tool_history": "text"})
    return None


def form_of(card: ModelCard) -> str:
    """How requests are put to a model with this card, as a word to be kept with their jobs."""
    return f"{card.tool_encoding} {card.tool_history}"


def in_form(card: ModelCard, form: str) -> ModelCard:
    """The card with which a request of that form is planned, and its answer read."""
    encoding, history = form.split()
    return card.model_copy(update={"tool_encoding": encoding, "tool_history": history})


def told(plain: ModelCard, card: ModelCard) -> tuple[str, ...]:
    """What is done otherwise with `card` than with the catalog's `plain`, in words."""
    words = []
    if card.tool_encoding != plain.tool_encoding:
        words.append(SIMPLE_FORM)
    if card.tool_history != plain.tool_history:
        words.append("history: past tool calls and results written as text")
    return tuple(words)


@dataclass(slots=True)
class Dialects:
    """Cards in force instead of the catalog's, by model id; at most one a model of the catalog.

    Attributes:
        remember_s: seconds after which the catalog's card is tried again.
    """

    remember_s: float = 3600.0
    clock: Callable[[], float] = time.monotonic
    _learned: dict[str, tuple[float, ModelCard]] = field(default_factory=dict)

    def card(self, card: ModelCard) -> ModelCard:
        """The card in force for a model."""
        until, learned = self._learned.get(card.id, (0.0, card))
        return learned if self.clock() < until else card

    def learn(self, card: ModelCard) -> None:
        """Keep a card that worked where the catalog's did not."""
        self._learned[card.id] = (self.clock() + self.remember_s, card)
