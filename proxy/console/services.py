"""What the console's own calls work with: opened by the app's lifespan."""

from dataclasses import dataclass

from proxy.access.authentication import Authenticator
from proxy.access.limits import Quota, RateLimits
from proxy.backends.narrative.client import NarrativeClient
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
        usual: the limits of callers whose keys have none of their own.
    """

    authenticator: Authenticator
    catalog: Catalog
    rules: PlanRules
    client: NarrativeClient
    recent: RecentRequests
    operators: frozenset[str]
    max_body_bytes: int
    limits: RateLimits
    usual: Quota
