"""What the console's own calls work with: opened by the app's lifespan."""

from dataclasses import dataclass

from proxy.access.callers import Door
from proxy.backends.narrative import NarrativeClient
from proxy.catalog import Catalog
from proxy.console.recent import RecentRequests
from proxy.translate.plan import PlanRules


@dataclass(frozen=True, slots=True)
class ConsoleServices:
    """Everything such a call needs.

    Attributes:
        client: carries the proxy's own token; callers with tokens of their own get a copy of it.
        operators: ids of the callers who are shown everyone's requests; others are shown their own.
        max_body_bytes: a longer request is refused.
    """

    door: Door
    catalog: Catalog
    rules: PlanRules
    client: NarrativeClient
    recent: RecentRequests
    operators: frozenset[str]
    max_body_bytes: int
