"""Webhook subscriptions, and the deliveries that tell them of changes."""

import asyncio
import contextlib
import uuid
from asyncio import sleep
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import orjson
from pydantic import BaseModel

from proxy.sandbox.faults import Fault, Faults
from proxy.sandbox.http import LOOPBACK, SandboxError, SandboxOptions, parse
from proxy.sandbox.jobs import JOB_TYPE, NEVER, JobStore, SandboxJob

_MAX_SUBSCRIPTIONS = 1_000
_MAX_TASKS = 100_000


class SubscriptionBody(BaseModel, strict=True, extra="forbid"):
    """The body of `POST /webhooks`. An absent filter accepts everything."""

    type: Literal["webhook_subscription_jobs"]
    url: str
    name: str | None = None
    job_types: list[str] | None = None
    states: list[str] | None = None
    job_ids: list[str] | None = None


class Subscription(SubscriptionBody):
    """A subscription as the API shows it; an archived one receives nothing any more."""

    id: str
    secret: str
    status: Literal["active", "archived"] = "active"

    def accepts(self, job: SandboxJob, state: str) -> bool:
        """Whether a job's change to a state is to be delivered."""
        types = {name.replace("-", "_") for name in self.job_types or (JOB_TYPE,)}
        return (
            self.status == "active"
            and JOB_TYPE in types
            and (not self.states or state in self.states)
            and (not self.job_ids or job.id in self.job_ids)
        )


class WebhookDeliveries:
    """The subscriptions of one sandbox, and what delivers to them: a task for each job, and one for each delivery.

    There are at most 1,000 active subscriptions, and as many archived ones are remembered.
    """

    def __init__(self, options: SandboxOptions, store: JobStore, faults: Faults) -> None:
        self._subscriptions: dict[str, Subscription] = {}
        self._options = options
        self._store = store
        self._faults = faults
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = asyncio.Semaphore(64)
        self._tasks: set[asyncio.Task[None]] = set()
        store.on_change = self._job_changed

    def create(self, body: bytes) -> Subscription:
        """Reads a subscription and adds it.
        Raises SandboxError: 400, the body is wrong or deliveries may not go there.
        """
        parsed = parse(SubscriptionBody, body)
        try:
            url = urlsplit(parsed.url)
            host = url.hostname
        except ValueError as fault:
            raise SandboxError(400, "url: is not a URL") from fault
        if url.scheme != "https" and not (url.scheme == "http" and host in LOOPBACK):
            raise SandboxError(400, "url: must be https")
        if host not in self._options.webhook_hosts:
            raise SandboxError(400, f"url: deliveries go to {', '.join(sorted(self._options.webhook_hosts))} only")
        if len([each for each in self.all() if each.status == "active"]) >= _MAX_SUBSCRIPTIONS:
            raise SandboxError(400, f"There are {_MAX_SUBSCRIPTIONS} subscriptions already")
        subscription = Subscription(id=str(uuid.uuid4()), secret=str(uuid.uuid4()), **parsed.model_dump())
        self._subscriptions[subscription.id] = subscription
        if len(self._subscriptions) > 2 * _MAX_SUBSCRIPTIONS:
            del self._subscriptions[next(each.id for each in self.all() if each.status == "archived")]
        # The first covers jobs that have not ended, too; from then on, every job is announced to all.
        now = self._store.clock()
        for job in self._store.jobs() if len(self._subscriptions) == 1 else ():
            if (at := job.next_change(now)) < NEVER:
                self._start(self._announce(job, at))
        return subscription

    def get(self, subscription_id: str) -> Subscription:
        """Raises SandboxError: 404."""
        subscription = self._subscriptions.get(subscription_id)
        if subscription is None:
            raise SandboxError(404, f"Webhook {subscription_id} was not found")
        return subscription

    def all(self) -> list[Subscription]:
        """In the order of their creation, archived ones included."""
        return list(self._subscriptions.values())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Delivers while the block runs; unfinished deliveries are dropped at its end."""
        self._loop = asyncio.get_running_loop()
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as self._client:
            try:
                yield
            finally:
                self._loop = None
                tasks = list(self._tasks)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        if self._loop is None or len(self._tasks) >= _MAX_TASKS:
            work.close()
            return
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _job_changed(self, job: SandboxJob) -> None:
        if self._loop is not None and self._subscriptions:
            # A test may end a job from another thread than the server's.
            at = job.updated_at(self._store.clock())
            self._loop.call_soon_threadsafe(lambda: self._start(self._announce(job, at)))

    async def _announce(self, job: SandboxJob, at: float) -> None:
        """Delivers the change of a job at a time, and those that follow."""
        while at < NEVER:
            if (left := at - self._store.clock()) > 0:
                await sleep(left)
                continue
            if job.updated_at(at) != at:
                break  # it was ended by hand, which started another task
            state = job.state_at(at)
            for subscription in self.all():
                if subscription.accepts(job, state):
                    fault = self._faults.pick("deliveries", job.id)
                    self._start(self._deliver(subscription, job, at, fault))
            at = job.next_change(at)

    async def _deliver(self, subscription: Subscription, job: SandboxJob, at: float, fault: Fault | None) -> None:
        event = {
            "id": str(uuid.uuid4()),
            "type": f"job.{job.state_at(at)}",
            "created_at": datetime.fromtimestamp(at, UTC).isoformat(),
            "data": orjson.Fragment(job.record(at, with_result=self._options.webhook_results)),
        }
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        match self._options.webhook_secret:
            case "header":
                headers["X-Narrative-Webhook-Secret"] = subscription.secret
            case "bearer":
                headers["Authorization"] = f"Bearer {subscription.secret}"
        kind = fault.kind if fault else None
        if fault and kind == "late":
            await sleep(fault.delay_s)
        body = orjson.dumps(event)
        for _ in range({"twice": 2, "lost": 0}.get(kind or "", 1)):
            for attempt in range(self._options.webhook_attempts):  # until a 2xx; all have the same idempotency key
                if attempt:
                    await sleep(self._options.webhook_retry_s * 2 ** (attempt - 1))
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    request = self._client.post(subscription.url, data=body, headers=headers, allow_redirects=False)
                    async with self._slots, request as response:
                        if 200 <= response.status < 300:
                            break
