"""Webhooks: the subscription, which one replica keeps for all, and the route that takes deliveries.

A delivery is a hint. It can come twice, late, out of order, or from someone else; none of these does harm. Whether deliveries come at
all is measured (`polling.Reliability`), not assumed. Source: shared contract `narrative.md`, section Webhooks.
"""

import asyncio
import hashlib
import hmac
import logging
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from yarl import URL

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.jobs import Jobs
from proxy.backends.narrative.types import ENDED, JobRecord, Webhook, WebhookRequest, decoded
from proxy.errors import ProxyError, UnknownUrl, UpstreamError
from proxy.storage import MemoryStore, Store

log = logging.getLogger(__name__)

PATH: Final = "/narrative/webhook"
_TOKEN_PARAM: Final = "token"  # noqa: S105  the name of the query parameter
MAX_BODY_BYTES: Final = 256 * 1024
_ARCHIVED: Final = frozenset({"archived", "deleted", "disabled", "inactive"})
_ROLE: Final = "webhooks"


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """How to subscribe. Times are seconds.

    Args:
        url: where Narrative posts to; the token is added to its query.
        name: of the subscription. Older ones of this name, left behind by a crash, are archived.
        token: proves a delivery. Replicas behind one URL share one token.
        check_every: between two checks that the subscription still exists.
        retry_first: before the first new try after a failed one; it doubles up to `check_every`.
        elect_every: between two renewals of this replica's role.
    """

    url: str
    name: str
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    check_every: float = 300.0
    retry_first: float = 2.0
    elect_every: float = 1.5


def webhook_options(public_url: str, api_key: str) -> WebhookOptions:
    """For the server that Narrative reaches at `public_url`. All replicas derive the same token from the proxy's own API key."""
    url = public_url.rstrip("/") + PATH
    token = hashlib.sha256(f"{url}\0{api_key}".encode()).hexdigest()
    return WebhookOptions(url=url, name=f"narrative-chat-proxy {url}", token=token)


class _Delivery(msgspec.Struct):
    data: JobRecord


class Webhooks:
    """Keeps one subscription while it is entered and leads, and passes deliveries on to the jobs.

    The client subscribes, with the key whose jobs are meant; the store elects the replica that subscribes.
    """

    def __init__(
        self, jobs: Jobs, client: NarrativeClient, options: WebhookOptions, store: Store | None = None
    ) -> None:
        self._jobs, self._client, self._options = jobs, client, options
        self._store = MemoryStore() if store is None else store
        self._url = str(URL(options.url).update_query({_TOKEN_PARAM: options.token}))
        self._webhook: Webhook | None = None
        self.subscribed = asyncio.Event()
        """Set while there is a subscription."""

    async def __aenter__(self) -> Self:
        """Starts to subscribe, or to stand by, without waiting for it: jobs are polled until deliveries prove reliable."""
        self._task: asyncio.Task[None] = asyncio.create_task(self._follow_role())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._archive()
        await self._store.leave(_ROLE)

    def deliver(self, headers: Mapping[str, str], token: str | None, body: bytes) -> int:
        """Take a delivery: the headers of its request with names in lower case, the `token` query parameter, and the body.

        Returns the HTTP status to answer: 204, 401 for one that is forged, 400 for one that cannot be read.
        """
        if not self.is_genuine(headers, token):
            return 401
        try:
            record = decoded(_Delivery, body).data
        except (ValueError, RecursionError):
            return 400
        if record.name and record.ended:
            self._jobs.deliver(record)
        return 204

    def is_genuine(self, headers: Mapping[str, str], token: str | None) -> bool:
        """Whether a request carries the token in its URL, or the subscription's secret in a header."""
        secret = self._webhook.secret if self._webhook else None
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        shown = [headers.get("x-narrative-webhook-secret"), bearer if scheme.lower() == "bearer" else None]
        pairs = [(token, self._options.token), *((value, secret) for value in shown)]
        return any(value and known and hmac.compare_digest(value.encode(), known.encode()) for value, known in pairs)

    async def _follow_role(self) -> None:
        """Subscribe while this replica leads, and again whenever the subscription is gone."""
        options, loop = self._options, asyncio.get_running_loop()
        check_at, pause = loop.time(), options.retry_first
        while True:
            membership = await self._store.join(_ROLE)
            # While the shared store is away, the last leader goes on; otherwise all would subscribe, each in place of the others.
            leads = membership.leads if self._store.healthy else self.subscribed.is_set()
            try:
                if not leads:
                    await self._archive()
                    check_at = loop.time()
                elif loop.time() >= check_at:
                    await self._ensure()
                    check_at, pause = loop.time() + options.check_every, options.retry_first
            except ProxyError as error:
                log.warning("webhooks are not subscribed: %s", error.message)
                check_at, pause = loop.time() + pause, min(2 * pause, options.check_every)
            until_check = max(check_at - loop.time(), 0.0) if leads else math.inf
            await asyncio.sleep(min(options.elect_every, until_check))

    async def _ensure(self) -> None:
        if self._webhook is not None:
            try:
                webhook = await self._client.get_webhook(self._webhook.id)
                if (webhook.status or "").lower() not in _ARCHIVED:
                    return
            except UpstreamError as error:
                if error.code != "narrative_webhook_lost":
                    raise
        self._webhook = None
        for webhook in await self._client.list_webhooks():
            if webhook.name == self._options.name and (webhook.status or "").lower() not in _ARCHIVED:
                await self._client.archive_webhook(webhook.id)
        name, states = self._options.name, tuple([state.value for state in ENDED])
        request = WebhookRequest(url=self._url, name=name, job_types=("model_inference",), states=states)
        self._webhook = await self._client.create_webhook(request)
        self.subscribed.set()

    async def _archive(self) -> None:
        webhook, self._webhook = self._webhook, None
        self.subscribed.clear()
        if webhook is not None:
            try:
                async with asyncio.timeout(5.0):
                    await self._client.archive_webhook(webhook.id)
            except (ProxyError, TimeoutError):
                log.warning("the webhook subscription could not be archived", extra={"webhook_id": webhook.id})


async def take_delivery(request: Request) -> Response:
    """`POST` of a delivery: 204, or 4xx for one that is forged, too large or unreadable. A forged one's body is not read.

    Raises UnknownUrl while webhooks are not configured.
    """
    webhooks: Webhooks | None = request.state.webhooks
    if webhooks is None:
        raise UnknownUrl("This server has not subscribed to webhooks.")
    token = request.query_params.get(_TOKEN_PARAM)
    if not webhooks.is_genuine(request.headers, token):
        return Response(status_code=401)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                return Response(status_code=413)
    except ClientDisconnect:
        return Response(status_code=400)
    return Response(status_code=webhooks.deliver(request.headers, token, bytes(body)))
