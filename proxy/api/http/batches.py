"""What the batches of every API share: who asks, contents as responses."""

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import StreamingResponse

from proxy.access.authentication import ANONYMOUS, Caller
from proxy.api.http.requests import canonical_digest, credentials_digest, terms_of
from proxy.api.http.requests import enter as enter_api
from proxy.batches.engine import Asked, Batches
from proxy.inference.request import JsonObject


async def enter(request: Request, apart: str = "") -> tuple[Batches, str, Caller]:
    """The batches, the name of the caller as an owner of batches and files, and the caller. Raises ProxyError.

    Args:
        apart: ends the name, so that other APIs do not see what is the caller's by this one.
    """
    _, caller = await enter_api(request)
    batches: Batches = request.state.batches
    await batches.open()
    owner = caller.id if caller.id != ANONYMOUS else f"{ANONYMOUS}:{credentials_digest(request.headers)}"
    return batches, f"{owner}{apart}", caller


def asked(request: Request, owner: str, caller: Caller, what: JsonObject) -> Asked:
    """How a request that makes a batch is recognized when it is repeated. Raises InvalidRequest: its key cannot be used."""
    terms, _ = terms_of(request.headers, 0.0)
    ttl_s = request.state.api.settings.state.idempotency_ttl_s
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
