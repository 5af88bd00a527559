"""How long the jobs of a model take, learned from the last ones. Pure: durations come in."""

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

WINDOW: Final = 128
"""Durations remembered for a model."""
MODELS: Final = 256
"""Models remembered."""
ENOUGH: Final = 8
"""Durations after which the guess gives way to what was learned; also how often it is learned anew."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """When, in seconds after its submission, a job can plausibly be done, and when it is late."""

    earliest: float = 0.1
    late: float = 15.0


class Cadence:
    """What to expect of each model's jobs."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, _Window] = OrderedDict()

    def expect(self, model: str) -> Expectation:
        window = self._models.get(model)
        return window.expectation if window else Expectation()

    def learn(self, model: str, seconds: float) -> None:
        """A job of `model` took `seconds`."""
        window = self._models.setdefault(model, _Window())
        self._models.move_to_end(model)
        if len(self._models) > MODELS:
            self._models.popitem(last=False)
        window.add(seconds)


class _Window:
    __slots__ = ("_count", "_durations", "expectation")

    def __init__(self) -> None:
        self._durations: deque[float] = deque(maxlen=WINDOW)
        self._count = 0
        self.expectation = Expectation()

    def add(self, seconds: float) -> None:
        self._durations.append(seconds)
        self._count += 1
        if self._count % ENOUGH == 0:
            self.expectation = expectation_of(sorted(self._durations))


def expectation_of(durations: list[float]) -> Expectation:
    """What `durations`, sorted and not empty, let expect of the next job: few are done before `earliest` or after `late`."""
    low = durations[len(durations) // 50]
    high = durations[-1 - len(durations) // 20]
    return Expectation(earliest=max(0.7 * low, 0.02), late=1.5 * high + 1.0)
