"""The effort of one compilation: counted, so that no schema can stall the server, and not made twice."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class TooMuchWork(Exception):
    """Compiling takes too many steps, or gives too large a schema. Never leaves this room."""


class Work:
    """Steps left, and what was made of two things already.

    Args:
        steps: how many may be taken.
    """

    def __init__(self, steps: int) -> None:
        self._left = steps
        self._made: dict[tuple[Any, int, int], tuple[Any, Any, Any]] = {}

    def spend(self) -> None:
        """Take one step.

        Raises:
            TooMuchWork: none is left.
        """
        self._left -= 1
        if self._left < 0:
            raise TooMuchWork

    def once(self, make: "Callable[[T, T, Work], T]", one: T, other: T) -> T:
        """What `make` makes of two things, in one step; the same two are known by their identity.

        Raises:
            TooMuchWork: no step is left.
        """
        key = (make, id(one), id(other))
        known = self._made.get(key)
        if known is None:
            self.spend()
            known = self._made[key] = (
                make(one, other, self),
                one,
                other,
            )  # both are kept, so that their ids stay theirs
        made: T = known[0]
        return made
