"""What the Elastic routes work with: opened by the app's lifespan, the same for every request."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from proxy.catalog import Catalog
from proxy.elastic.authentication import ElasticAuthenticator
from proxy.endpoints.endpoint import Endpoint, ServiceName
from proxy.endpoints.store import Endpoints
from proxy.serving.upstream import Upstream
from proxy.settings import Settings

Verify = Callable[[Endpoint, str | None], Awaitable[None]]
"""(endpoint, its credential) → nothing, when its service accepts the credential. Raises ProxyError."""


@dataclass(frozen=True, slots=True)
class ElasticServices:
    """Everything a request needs on its way.

    Attributes:
        upstream: answers for every endpoint.
        verify: a small call to each service.
        own_token: whether the proxy has a Narrative token for endpoints that bring none.
    """

    settings: Settings
    catalog: Catalog
    authenticator: ElasticAuthenticator
    endpoints: Endpoints
    upstream: Upstream
    verify: Mapping[ServiceName, Verify]
    own_token: bool
