"""Webhooks as this server takes them: one subscription for all replicas behind one address, and news for whichever waits for the job."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.http.bodies import read_body
from proxy.backends.narrative import Jobs, NarrativeClient, Receipt, WebhookOptions, Webhooks
from proxy.backends.narrative.webhooks import TOKEN_PARAM
from proxy.errors import UnknownUrl
from proxy.storage import Store

PATH: Final = "/narrative/webhook"
_ROLE: Final = "webhooks"
_LEAD_EVERY_S: Final = 1.5
_MOST_BYTES: Final = 16 * 1024 * 1024


class Deliveries:
    """Takes deliveries. Whoever leads keeps the subscription; when it is killed, another replica takes it over.

    Args:
        public_url: where Narrative reaches the server, without path.
        api_key: the proxy's own, whose jobs are meant. All replicas make the same token of it.
    """

    def __init__(self, jobs: Jobs, client: NarrativeClient, store: Store, public_url: str, api_key: str) -> None:
        url = public_url.rstrip("/") + PATH
        token = hashlib.sha256(f"{url}\0{api_key}".encode()).hexdigest()
        self._store = store
        self._jobs = jobs
        self._client = client
        self._webhooks = Webhooks(
            jobs, client, WebhookOptions(url=url, name=f"narrative-chat-proxy {url}", token=token)
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Subscribe, or stand by."""
        self._jobs.expect_push(self._client)
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await self._store.leave(_ROLE)

    async def take(self, request: Request) -> Response:
        """`POST` of a delivery: 204, or 4xx for one that is forged or unreadable."""
        body = await read_body(request, _MOST_BYTES)
        receipt: Receipt = self._webhooks.deliver(request.headers, request.query_params.get(TOKEN_PARAM), body)
        return Response(status_code=receipt.value)

    async def _keep(self) -> None:
        async with AsyncExitStack() as stack:
            subscribed = False
            while True:
                membership = await self._store.join(_ROLE)
                # While the shared state is away, whoever led goes on; else all would subscribe, each in place of the others.
                leads = membership.leads if self._store.healthy else subscribed
                if leads and not subscribed:
                    await stack.enter_async_context(self._webhooks)
                elif subscribed and not leads:
                    await stack.aclose()
                subscribed = leads
                await asyncio.sleep(_LEAD_EVERY_S)


async def take_delivery(request: Request) -> Response:
    """The route of deliveries. Raises UnknownUrl while webhooks are not configured."""
    deliveries: Deliveries | None = request.app.state.deliveries
    if deliveries is None:
        raise UnknownUrl("This server has not subscribed to webhooks.")
    return await deliveries.take(request)
