"""What was read out of a model's output: the parts of a reply, and what is wrong with them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call: the client's name of the tool, and the arguments as a JSON value."""

    name: str
    arguments: Any


@dataclass(frozen=True, slots=True)
class Reading:
    """A reply as the envelope read it.

    Attributes:
        text: what the model says to the user (for structured output its JSON text); None when it says nothing.
        calls: the tool calls, in order.
        reasoning: the thinking trace, None when there is none.
        faults: what does not match the request, in words that the model itself can act on; empty when all is well.
        fatal: a fault that must not be handed out: nothing could be made of the output, or it breaks a promise (`strict`, `required`).
    """

    text: str | None = None
    calls: tuple[Call, ...] = ()
    reasoning: str | None = None
    faults: tuple[str, ...] = ()
    fatal: bool = False
