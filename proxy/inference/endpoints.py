"""Named endpoints: a service, a model, credentials, a rate limit and default settings, bound to a name once; and their store.

And what any name means to a caller: a model of the catalog or a named endpoint.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import structlog
from pydantic import BaseModel

from proxy.access.authentication import Caller
from proxy.catalog import Catalog, Match, ModelCard
from proxy.errors import InternalError, ModelNotFound, Overloaded, PermissionDenied
from proxy.inference.request import Request
from proxy.storage import Records
from proxy.storage.cipher import CannotDecrypt, Cipher, NoSecret

ServiceName = Literal["narrative", "anthropic"]
TaskType = Literal["completion", "chat_completion"]
_RECORD = "endpoints"
log = structlog.get_logger(__name__)


class TaskDefaults(BaseModel, frozen=True, extra="forbid"):
    """Settings of requests that do not name their own; None leaves a setting to the model."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


class Endpoint(BaseModel, frozen=True, extra="ignore"):
    """What is stored of an endpoint.

    Attributes:
        id: the name that clients use, also as a model's name.
        model_id: the service's name for the model.
        sealed_key: the service's credential, encrypted; None is the proxy's own.
        data_plane_id: where its Narrative jobs run; None is the caller's.
        requests_per_minute: for all callers together; None is no limit.
        fallback: a model or endpoint that serves requests while this one's service is down.
        created_at: seconds since 1970 (UTC).
    """

    id: str
    task_type: TaskType
    service: ServiceName
    model_id: str
    sealed_key: str | None = None
    data_plane_id: str | None = None
    requests_per_minute: int | None = None
    defaults: TaskDefaults = TaskDefaults()
    fallback: str | None = None
    created_at: int = 0

    def request_for(self, request: Request) -> Request:
        """A client's request for the service: with the service's model, and the defaults where the client names nothing.

        Only one of temperature and top_p should be given: either one of the client's keeps both defaults out.
        """
        defaults, sampling = self.defaults, request.sampling
        if sampling.temperature is None and sampling.top_p is None:
            sampling = replace(sampling, temperature=defaults.temperature, top_p=defaults.top_p)
        if sampling.top_k is None:
            sampling = replace(sampling, top_k=defaults.top_k)
        limit = defaults.max_tokens if request.max_tokens is None else request.max_tokens
        return replace(request, model=self.model_id, max_tokens=limit, sampling=sampling)


class Endpoints:
    """Endpoints by id. Every call raises StoreUnavailable when the store cannot be reached."""

    def __init__(self, records: Records, cipher: Cipher) -> None:
        self._records = records
        self._cipher = cipher

    async def add(self, endpoint: Endpoint, api_key: str | None) -> bool:
        """Store a new endpoint with its credential; False, and nothing stored, when there is one of that id."""
        sealed = None if api_key is None else await self._in_thread(self._cipher.encrypt, api_key)
        stored = endpoint.model_copy(update={"sealed_key": sealed}).model_dump_json(exclude_none=True)
        return await self._records.compare_and_set(_RECORD, endpoint.id, None, stored)

    async def find(self, name: str) -> Endpoint | None:
        """The endpoint of that id."""
        stored = await self._records.get(_RECORD, name)
        return None if stored is None else Endpoint.model_validate_json(stored)

    async def all(self) -> list[Endpoint]:
        """All of them, in the order of their ids."""
        return [Endpoint.model_validate_json(stored) for stored in (await self._records.read(_RECORD)).values()]

    async def remove(self, name: str) -> bool:
        return await self._records.remove(_RECORD, name)

    async def api_key(self, endpoint: Endpoint) -> str | None:
        """An endpoint's credential, None for the proxy's own. Raises InternalError: it was stored under another PROXY_SECRET_KEY."""
        if endpoint.sealed_key is None:
            return None
        try:
            if self._cipher.is_quick(endpoint.sealed_key):
                return self._cipher.decrypt(endpoint.sealed_key)
            return await self._in_thread(self._cipher.decrypt, endpoint.sealed_key)
        except CannotDecrypt:
            raise InternalError(
                f"The credentials of endpoint `{endpoint.id}` cannot be read: they were stored under another PROXY_SECRET_KEY. "
                "Set that one, or delete the endpoint and create it again.",
            ) from None

    async def _in_thread(self, work: Callable[[str], str], text: str) -> str:
        try:
            return await asyncio.to_thread(work, text)
        except NoSecret as error:
            log.error("no secret key", error=str(error))
            message = "Credentials can be neither stored nor read: set PROXY_SECRET_KEY, or make the folder writable."
            raise Overloaded(message, code="state_unavailable") from error


async def find_model(name: str, caller: Caller, catalog: Catalog, endpoints: Endpoints) -> Match | Endpoint:
    """What a name means to a caller, who does not learn of what it may not use. Raises ModelNotFound, PermissionDenied."""
    if name not in catalog.names and caller.may_use_endpoint(name):
        endpoint = await endpoints.find(name)
        if endpoint is not None:
            return endpoint
    found = None
    try:
        found = catalog.match(name)
    except ModelNotFound:
        if caller.may_use({name}):
            raise
    if found is None or not caller.may_use({name, found.card.id, *found.card.names}):
        raise PermissionDenied(f"This API key has no access to the model `{name[:100]}`.", param="model")
    return found


async def usable_models(
    caller: Caller, catalog: Catalog, endpoints: Endpoints
) -> list[tuple[str, ModelCard | Endpoint]]:
    """What a caller may use, by the names to list: every model once, then every named endpoint."""
    cards = [(card.public_name, card) for card in catalog.cards if caller.may_use({card.id, *card.names})]
    named = [(endpoint.id, endpoint) for endpoint in await endpoints.all() if caller.may_use_endpoint(endpoint.id)]
    return [*cards, *named]
