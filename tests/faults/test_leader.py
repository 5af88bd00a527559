"""Replicas that share a Redis: one reads the lists for all, at the cost of one, and every end is noticed whatever becomes of it."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from proxy.backends.narrative.client import Call, NarrativeClient
from proxy.backends.narrative.events import JobEnded, UpstreamCalled
from proxy.backends.narrative.failures import failed
from proxy.sandbox import SandboxOptions
from proxy.storage.outages import FailOpen
from proxy.storage.redis import RedisStore
from tests.faults.meddler import Served, fickle_narrative
from tests.faults.relay import Relay, relay_to
from tests.faults.running import OPTIONS, Engine, engine
from tests.redis_server import serve_redis
from tests.waiting import until

RATE = 20
SLOW = SandboxOptions(pending_s=0.01, running_s=0.1)
ONE_BUDGET = replace(OPTIONS, reads_per_second=RATE, lost_after=10.0)


class Closable(NarrativeClient):
    """A replica's connections to Narrative. Requests to `closed` paths do not get through."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.closed: set[str] = set()

    async def _send(self, call: Call[Any], end: float) -> Any:
        if call.path.partition("?")[0] in self.closed:
            raise failed(call.operation, "no connection", sent=False)
        return await super()._send(call, end)


@dataclass
class Replica:
    """An engine with a store of its own, which reaches Redis through a relay of its own."""

    engine: Engine
    store: FailOpen
    relay: Relay
    client: Closable
    close: Callable[[], Awaitable[None]]
    endless: asyncio.Task[str]
    """A job in flight that runs on."""

    @property
    def leads(self) -> bool:
        return any(membership.leads for membership in self.engine.jobs.memberships)

    @property
    def sees(self) -> int:
        """The replicas that it knows to follow the account, itself among them."""
        return max((membership.members for membership in self.engine.jobs.memberships), default=0)

    @property
    def reads(self) -> Counter[str]:
        """What it asked Narrative, by operation, submissions aside."""
        calls = (event for event in self.engine.events if isinstance(event, UpstreamCalled))
        return Counter(call.operation for call in calls if call.operation != "submit")

    def noticed_by(self, source: str) -> int:
        return sum(isinstance(event, JobEnded) and event.source == source for event in self.engine.events)

    @property
    def took(self) -> list[float]:
        """Seconds from each job's submission to the notice of its end."""
        return [event.seconds for event in self.engine.events if isinstance(event, JobEnded)]

    async def run(self, jobs: int, seconds: float) -> None:
        await asyncio.gather(*(self.engine.run(seconds) for _ in range(jobs)))


@dataclass
class Site:
    narrative: Served
    replicas: list[Replica]

    @property
    def leader(self) -> Replica:
        return next(replica for replica in self.replicas if replica.leads)

    @property
    def others(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica is not self.leader]

    @property
    def completed(self) -> int:
        store = self.narrative.store
        return sum(job.state_at(store.clock()) == "completed" for job in store.jobs())

    @property
    def reads(self) -> int:
        return sum(replica.reads.total() for replica in self.replicas)


@asynccontextmanager
async def site(count: int) -> AsyncIterator[Site]:
    """Replicas that have agreed on a leader and receive what it publishes."""
    async with AsyncExitStack() as stack:
        narrative = stack.enter_context(fickle_narrative(SLOW))
        port = int(stack.enter_context(serve_redis()).rsplit(":", 1)[1].partition("/")[0])
        prefix = f"{uuid4()}:"
        replicas = []
        for _ in range(count):
            own = await stack.enter_async_context(AsyncExitStack())
            relay = await own.enter_async_context(relay_to(port))
            redis = await own.enter_async_context(RedisStore(f"redis://127.0.0.1:{relay.port}/0", prefix))
            store = FailOpen(redis)
            running = await own.enter_async_context(engine(narrative.url, ONE_BUDGET, store=store, kind=Closable))
            client = running.client
            assert isinstance(client, Closable)
            endless = asyncio.create_task(running.run(3600.0))
            replicas.append(Replica(running, store, relay, client, own.aclose, endless))

        async def all_follow() -> bool:
            await asyncio.gather(*(replica.run(3, 0.1) for replica in replicas))
            return all(replica.noticed_by("list") for replica in replicas)

        try:
            await until(lambda: all(replica.sees == count for replica in replicas))
            await until(lambda: sum(replica.leads for replica in replicas) == 1)
            await until(all_follow)
            yield Site(narrative, replicas)
        finally:
            for replica in replicas:
                replica.endless.cancel()
            await asyncio.gather(*(replica.endless for replica in replicas), return_exceptions=True)


async def test_one_replica_reads_the_lists_and_all_notice_their_jobs_by_them() -> None:
    async with site(3) as here:
        before = [replica.reads for replica in here.others]
        await asyncio.gather(*(replica.run(40, 1.0) for replica in here.replicas))
        for replica, earlier in zip(here.others, before, strict=True):
            read = replica.reads - earlier
            assert read["list_jobs"] == 0
            assert read["read_job"] <= 10, "what the leader published is not read again"
        assert all(replica.noticed_by("list") >= 40 for replica in here.replicas)


async def test_three_replicas_cost_the_budget_of_one() -> None:
    async with site(3) as here:
        started, before = time.monotonic(), here.reads
        await asyncio.gather(*(replica.run(60, 3.0) for replica in here.replicas))
        assert here.reads - before <= RATE * (time.monotonic() - started) + RATE


async def test_a_replica_without_jobs_goes_on_reading_for_those_that_have_some() -> None:
    async with site(2) as here:
        leader, [other] = here.leader, here.others
        leader.endless.cancel()
        await until(lambda: not leader.engine.jobs.in_flight)
        before = other.reads["list_jobs"]
        await other.run(40, 0.5)
        assert leader.leads
        assert other.reads["list_jobs"] == before
        assert other.noticed_by("list") >= 40


async def test_when_the_leader_stops_another_one_leads() -> None:
    async with site(2) as here:
        leader, [other] = here.leader, here.others
        asks = asyncio.create_task(other.run(40, 3.0))
        await leader.close()
        await until(lambda: other.leads)
        await asks


async def test_when_the_leader_cannot_read_another_one_leads() -> None:
    async with site(2) as here:
        leader, [other] = here.leader, here.others
        leader.client.closed.add("/jobs")
        await until(lambda: other.leads)
        await asyncio.gather(*(replica.run(20, 1.0) for replica in here.replicas))


async def test_when_the_leader_loses_redis_both_read_and_nothing_is_missed() -> None:
    async with site(2) as here:
        leader, [other] = here.leader, here.others
        asks = asyncio.gather(*(replica.run(40, 1.0) for replica in here.replicas))
        leader.relay.cut()
        await asks
        await until(lambda: leader.leads and other.leads)
        await asyncio.gather(*(replica.run(10, 0.5) for replica in here.replicas))
        leader.relay.mend()
        await until(lambda: sum(replica.leads for replica in here.replicas) == 1)
        await asyncio.gather(*(replica.run(10, 0.5) for replica in here.replicas))


async def mute(topic: str, message: str) -> None:
    """Redis loses every message."""


async def test_while_the_leader_is_silent_a_follower_reads_the_lists_itself() -> None:
    async with site(2) as here:
        leader, [other] = here.leader, here.others
        leader.store.publish = mute  # type: ignore[method-assign]
        before = other.reads["list_jobs"]
        await other.run(20, 0.3)
        await until(lambda: other.reads["list_jobs"] > before)
        assert leader.leads
        assert not other.leads


async def test_what_was_published_while_messages_were_lost_is_read_once_they_come_again() -> None:
    async with site(2) as here:
        leader, [other] = here.leader, here.others
        publish = leader.store.publish
        before = here.completed
        leader.store.publish = mute  # type: ignore[method-assign]
        asks = asyncio.create_task(other.run(80, 0.2))
        await until(lambda: here.completed >= before + 80)
        await leader.run(60, 0.1)  # its ends push the others off the page
        leader.store.publish = publish  # type: ignore[method-assign]
        await asks
        assert max(other.took) < 10


async def test_messages_of_replicas_of_another_version_are_ignored() -> None:
    async with site(2) as here:
        for message in ("", "junk", '{"account": 5}', '{"account": "x", "state": "completed", "ids": ["a"]}'):
            await here.leader.store.publish("feed", message)
        await asyncio.gather(*(replica.run(10, 0.3) for replica in here.replicas))
