"""Webhooks: the subscription, and the judgement of what is delivered. The HTTP route is the caller's.

A delivery is a hint. It can come twice, late, out of order, or from someone else; none of these does harm. Whether deliveries
come at all is found out by trust (`trust.py`), not assumed.
Source: shared contract `narrative.md`, section Webhooks.
"""

import asyncio
import hmac
import logging
import secrets
import socket
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Final, Self

import httpx

from proxy.backends.narrative.answers import parse_json
from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.feed import STATES, record_id
from proxy.backends.narrative.jobs import Jobs
from proxy.backends.narrative.types import ENDED, Delivery, Webhook, WebhookRequest
from proxy.errors import ProxyError, UpstreamError

log = logging.getLogger(__name__)

TOKEN_PARAM: Final = "token"  # noqa: S105  the name of the query parameter
SECRET_HEADER: Final = "x-narrative-webhook-secret"  # noqa: S105  the name of the header
_MOST_REMEMBERED: Final = 10_000
_GONE: Final = frozenset({"archived", "deleted", "disabled", "inactive"})


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """How to subscribe. Seconds."""

    url: str
    """Where Narrative posts to; the token is added to its query."""
    name: str = field(default_factory=lambda: f"narrative-chat-proxy {socket.gethostname()}")
    """Of the subscription. Older ones of this name, left behind by a crash, are archived."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """Proves a delivery. Replicas behind one URL share one token."""
    check_every: float = 300.0
    """Between two checks that the subscription still exists."""
    retry_first: float = 2.0
    """Before the first new try after a failed one; it doubles up to `check_every`."""
    farewell: float = 5.0
    """Longest wait for the archiving at the end."""


class Receipt(Enum):
    """What became of a delivery; the value is the HTTP status to answer."""

    ACCEPTED = 204
    UNREADABLE = 400
    FORGED = 401


class Webhooks:
    """Keeps one subscription while it is entered, and passes deliveries on to the jobs.

    Args:
        jobs: told of ends.
        client: subscribes, with the key whose jobs are meant.
        options: where and how.
    """

    def __init__(self, jobs: Jobs, client: NarrativeClient, options: WebhookOptions) -> None:
        self._jobs = jobs
        self._client = client
        self._options = options
        httpx.URL(options.url)  # a URL that is none is said at once
        self._webhook: Webhook | None = None
        self._delivered: OrderedDict[str, None] = OrderedDict()
        self._subscribed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Starts to subscribe, without waiting for it: jobs are followed by reads until deliveries prove themselves."""
        self._task = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._webhook is not None:
            try:
                async with asyncio.timeout(self._options.farewell):
                    await self._client.archive_webhook(self._webhook.id)
            except (ProxyError, TimeoutError):
                log.warning("the webhook subscription could not be archived", extra={"webhook_id": self._webhook.id})
            self._webhook = None

    async def subscribed(self) -> None:
        """Wait until there is a subscription."""
        await self._subscribed.wait()

    # ------------------------------------------------------------ deliveries

    def deliver(self, headers: Mapping[str, str], token: str | None, body: bytes) -> Receipt:
        """Take a delivery.

        Args:
            headers: of the request, names in lower case.
            token: the value of the `token` query parameter.
            body: of the request.
        """
        if not self._genuine(headers, token):
            return Receipt.FORGED
        try:
            delivery = Delivery.model_validate(parse_json(body))
        except (ValueError, RecursionError):
            return Receipt.UNREADABLE
        key = headers.get("idempotency-key") or delivery.id
        if key is None or self._is_new(key):
            self._pass_on(delivery.data)
        return Receipt.ACCEPTED

    def _genuine(self, headers: Mapping[str, str], token: str | None) -> bool:
        secret = self._webhook.secret if self._webhook else None
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        shown = [headers.get(SECRET_HEADER), bearer if scheme.lower() == "bearer" else None]
        return _same(token, self._options.token) or any(_same(value, secret) for value in shown)

    def _is_new(self, key: str) -> bool:
        if key in self._delivered:
            return False
        self._delivered[key] = None
        if len(self._delivered) > _MOST_REMEMBERED:
            self._delivered.popitem(last=False)
        return True

    def _pass_on(self, record: dict[str, Any]) -> None:
        if record_id(record) and record.get("state") in ENDED:
            self._jobs.deliver(record)

    # ------------------------------------------------------------ subscription

    async def _keep(self) -> None:
        """Subscribe, and again whenever the subscription is gone."""
        pause = self._options.retry_first
        while True:
            try:
                await self._ensure()
                await asyncio.sleep(self._options.check_every)
                pause = self._options.retry_first
            except ProxyError as error:
                log.warning("webhooks are not subscribed: %s", error.message)
                await asyncio.sleep(pause)
                pause = min(2 * pause, self._options.check_every)

    async def _ensure(self) -> None:
        if self._webhook is not None and await self._exists(self._webhook.id):
            return
        self._webhook = None
        await self._tidy()
        url = httpx.URL(self._options.url).copy_merge_params({TOKEN_PARAM: self._options.token})
        request = WebhookRequest(
            url=str(url), name=self._options.name, job_types=("model_inference",), states=tuple(map(str, STATES))
        )
        self._webhook = await self._client.create_webhook(request)
        self._jobs.expect_push(self._client)
        self._subscribed.set()

    async def _exists(self, webhook_id: str) -> bool:
        try:
            webhook = await self._client.get_webhook(webhook_id)
        except UpstreamError as error:
            if error.code != "narrative_webhook_lost":
                raise
            return False
        return (webhook.status or "").lower() not in _GONE

    async def _tidy(self) -> None:
        for webhook in await self._client.list_webhooks():
            if webhook.name == self._options.name and (webhook.status or "").lower() not in _GONE:
                await self._client.archive_webhook(webhook.id)


def _same(shown: str | None, expected: str | None) -> bool:
    return bool(shown and expected) and hmac.compare_digest(str(shown).encode(), str(expected).encode())
