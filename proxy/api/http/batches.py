"""What the batches of every API share: who asks, contents as responses."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import StreamingResponse

from proxy.access.authentication import ANONYMOUS, Caller
from proxy.api.http.requests import ApiServices, canonical_digest, credentials_digest, terms_of
from proxy.batches.engine import Asked, Batches
from proxy.inference.request import JsonObject


@dataclass(frozen=True, slots=True)
class BatchServices:
    """What the routes of batches work with: opened by the app's lifespan, the same for every request; `request.state.batches`."""

    api: ApiServices
    batches: Batches


async def enter(request: Request) -> tuple[BatchServices, str, Caller]:
    """The services, whose files and batches the request may see, and the caller. Raises ProxyError."""
    services: BatchServices = request.state.batches
    caller = await services.api.authenticator.authenticate(request.headers)
    await services.batches.open()
    owner = caller.id if caller.id != ANONYMOUS else f"{ANONYMOUS}:{credentials_digest(request.headers)}"
    return services, owner, caller


def asked(request: Request, services: BatchServices, owner: str, caller: Caller, what: JsonObject) -> Asked:
    """How a request that makes a batch is recognized when it is repeated. Raises InvalidRequest: its key cannot be used."""
    terms, _ = terms_of(request.headers, 0.0)
    ttl_s = services.api.settings.state.idempotency_ttl_s
    return Asked(owner, caller, canonical_digest(what), terms.key, terms.is_retry, ttl_s)


async def streamed(content: AsyncIterator[bytes], media_type: str, size: int) -> StreamingResponse:
    """A content as a response. It fails before the response begins where the content is gone."""
    first = await anext(content, b"")

    async def pieces() -> AsyncIterator[bytes]:
        yield first
        async for piece in content:
            yield piece

    headers = {"content-length": str(size), "cache-control": "no-store", "x-content-type-options": "nosniff"}
    return StreamingResponse(pieces(), media_type=media_type, headers=headers)
