"""What the chat routes work with: opened by the app's lifespan, the same for every request."""

from dataclasses import dataclass

from proxy.access.authentication import Authenticator
from proxy.catalog import Catalog
from proxy.endpoints.store import Endpoints
from proxy.serving.upstream import Upstream
from proxy.settings import Settings


@dataclass(frozen=True, slots=True)
class ChatServices:
    """Everything a chat request needs on its way."""

    settings: Settings
    catalog: Catalog
    authenticator: Authenticator
    endpoints: Endpoints
    upstream: Upstream
