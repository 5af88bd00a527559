"""Tells subscribers of changes: one task follows the clock, others carry the deliveries, each tried several times."""

import asyncio
import contextlib
import heapq
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson

from proxy.sandbox.faults import Fault, Faults
from proxy.sandbox.jobs import NEVER, Job
from proxy.sandbox.options import SandboxOptions
from proxy.sandbox.store import JobStore
from proxy.sandbox.subscriptions import Subscription, Subscriptions, secret_headers

_AT_ONCE = 64
_TIMEOUT_S = 10.0
_MOST_WAITING = 100_000


@dataclass(frozen=True)
class Delivery:
    """One message to one subscriber; it keeps its idempotency key over all tries."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class Deliveries:
    """Watches the jobs of a store and delivers their changes.

    Args:
        options: `webhook_…`.
        store: whose jobs are watched.
        subscriptions: who is told.
        faults: what goes wrong with deliveries.

    Attributes:
        delivered: how many deliveries were answered with 2xx.
        given_up: how many were tried in vain.
    """

    def __init__(self, options: SandboxOptions, store: JobStore, subscriptions: Subscriptions, faults: Faults) -> None:
        self._options = options
        self._store = store
        self._subscriptions = subscriptions
        self._faults = faults
        self._overtaken = asyncio.Event()
        self._due: list[tuple[float, int, Job]] = []
        self._order = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._running: set[asyncio.Task[None]] = set()
        self.delivered = 0
        self.given_up = 0
        store.watch(self._job_changed)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Delivers while the block runs; what is under way at its end is dropped."""
        self._loop = asyncio.get_running_loop()
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            connector=aiohttp.TCPConnector(limit=_AT_ONCE),
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as client:
            follower = asyncio.create_task(self._follow(client))
            try:
                yield
            finally:
                tasks = [follower, *self._running]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._loop = None

    def subscribed(self) -> None:
        """To be called when there is a new subscription: jobs under way are watched from now on."""
        now = self._store.clock()
        waiting = {job.id for _, _, job in self._due}
        for job in self._store.jobs():
            if job.id not in waiting:
                self._schedule(job, job.next_change(now))

    def _job_changed(self, job: Job) -> None:
        if self._subscriptions.active():
            self._schedule(job, job.updated_at(self._store.clock()))

    def _schedule(self, job: Job, at: float) -> None:
        if at == NEVER or len(self._due) >= _MOST_WAITING:
            return
        self._order += 1
        heapq.heappush(self._due, (at, self._order, job))
        if self._loop is not None:
            # A test may end a job from another thread than the server's.
            self._loop.call_soon_threadsafe(self._wake.set)

    async def _follow(self, client: aiohttp.ClientSession) -> None:
        while True:
            self._wake.clear()
            now = self._store.clock()
            while self._due and self._due[0][0] <= now:
                at, _, job = heapq.heappop(self._due)
                # A job that was ended early has left the moments behind that were planned for it.
                if job.updated_at(at) == at:
                    self._announce(client, job, at)
                    self._schedule(job, job.next_change(at))
            wait = self._due[0][0] - now if self._due else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait)

    def _announce(self, client: aiohttp.ClientSession, job: Job, at: float) -> None:
        state = job.state_at(at)
        for subscription in self._subscriptions.active():
            if subscription.wants(job, state):
                fault = self._faults.pick("deliveries", job.id) if self._faults else None
                self._start(self._tell(client, self._delivery(subscription, job, at), fault))

    def _start(self, telling: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(telling)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _tell(self, client: aiohttp.ClientSession, delivery: Delivery, fault: Fault | None) -> None:
        if fault is not None:
            await self._disturb(client, delivery, fault)
        if fault is None or fault.kind != "lost":
            await self._deliver(client, delivery)
        # Those that were held back may go, now that a later one has arrived.
        self._overtaken.set()
        self._overtaken = asyncio.Event()

    async def _disturb(self, client: aiohttp.ClientSession, delivery: Delivery, fault: Fault) -> None:
        """What goes wrong before a delivery."""
        match fault.kind:
            case "late":
                await asyncio.sleep(fault.delay_s)
            case "reordered":
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._overtaken.wait(), fault.delay_s)
            case "forged":
                await self._deliver(client, _forged(delivery))
            case "twice":
                await self._deliver(client, delivery)

    def _delivery(self, subscription: Subscription, job: Job, at: float) -> Delivery:
        event: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "type": f"job.{job.state_at(at)}",
            "created_at": datetime.fromtimestamp(at, UTC).isoformat(),
            "data": job.record(at, id_name=self._options.id_name, with_result=self._options.webhook_results),
        }
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": str(uuid.uuid4()),
            **secret_headers(subscription, self._options),
        }
        return Delivery(subscription.body.url, headers, orjson.dumps(event))

    async def _deliver(self, client: aiohttp.ClientSession, delivery: Delivery) -> None:
        for attempt in range(self._options.webhook_attempts):
            if attempt:
                await asyncio.sleep(self._options.webhook_retry_s * 2 ** (attempt - 1))
            async with self._slots:
                if await self._post(client, delivery):
                    self.delivered += 1
                    return
        self.given_up += 1

    async def _post(self, client: aiohttp.ClientSession, delivery: Delivery) -> bool:
        try:
            async with client.post(
                delivery.url, data=delivery.body, headers=delivery.headers, allow_redirects=False
            ) as answer:
                return 200 <= answer.status < 300
        except (aiohttp.ClientError, TimeoutError):
            return False


def _forged(delivery: Delivery) -> Delivery:
    """The same job from someone who does not know the secret and says that it failed."""
    event = orjson.loads(delivery.body)
    event["type"] = "job.failed"
    event["data"] |= {"state": "failed", "result": None, "failures": [{"message": "forged"}]}
    guess = str(uuid.uuid4())
    secrets = {"X-Narrative-Webhook-Secret": guess, "Authorization": f"Bearer {guess}"}
    headers = {name: secrets.get(name, value) for name, value in delivery.headers.items()}
    return Delivery(delivery.url, headers | {"Idempotency-Key": str(uuid.uuid4())}, orjson.dumps(event))
