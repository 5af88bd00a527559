"""What the console's own calls work with: opened by the app's lifespan."""

from dataclasses import dataclass

from proxy.access.authentication import Authenticator
from proxy.access.limits import Quota, RateLimits
from proxy.backends.narrative.client import NarrativeClient
from proxy.catalog import Catalog
from proxy.console.recent import RecentRequests
from proxy.inference.request import Rules
from proxy.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class ConsoleServices:
    """Everything such a call needs.

    Attributes:
        client: carries the proxy's own token; callers with tokens of their own get a copy of it.
        operators: ids of the callers who are shown everyone's requests; others are shown their own.
        server: bounds on request bodies.
        usual: the limits of callers whose keys have none of their own.
    """

    authenticator: Authenticator
    catalog: Catalog
    rules: Rules
    client: NarrativeClient
    recent: RecentRequests
    operators: frozenset[str]
    server: ServerSettings
    limits: RateLimits
    usual: Quota
