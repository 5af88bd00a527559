"""Every submission is made once, whoever works on the request and wherever they are killed."""

import asyncio
from typing import Any

import pytest

from proxy.chat.submissions import Keeping, Recorded
from proxy.errors import IdempotencyConflict, RateLimited, UpstreamError
from proxy.storage import MemoryStore
from tests.waiting import until

SEED = "5a4db0c5-0000-4000-8000-00005a4db0c5"


class Replica(MemoryStore):
    """A store that is shared with another one, as replicas on one Redis have."""

    def __init__(self, other: "Replica | None" = None, dead: set[str] | None = None) -> None:
        super().__init__()
        self.dead: set[str] = other.dead if other else dead or set()
        if other is not None:
            self._records = other._records

    async def alive(self, replica: str) -> bool:
        return bool(replica) and replica not in self.dead


def recorded(store: MemoryStore, patience_s: float = 5.0) -> Recorded:
    return Recorded(store, "run:1", SEED, Keeping(60.0, patience_s, 0, asyncio.create_task))


class Narrative:
    """Counts submissions. `since` of each tells whether it was looked for first."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[tuple[str, float | None]] = []
        self.go = asyncio.Event()

    async def submit(self, form: str, since: float | None) -> str:
        self.calls.append((form, since))
        await self.go.wait()
        outcome = self.outcomes.pop(0) if self.outcomes else f"job-{len(self.calls)}"
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)


async def test_whoever_comes_later_gets_the_same_job_and_the_form_it_was_submitted_in() -> None:
    narrative, store = Narrative(), Replica()
    narrative.go.set()
    first = await recorded(store).place("0", "blocks", narrative.submit)
    later = await recorded(Replica(store)).place("0", "text", narrative.submit)
    assert later == first
    assert (later.job, later.form) == ("job-1", "blocks")
    assert len(narrative.calls) == 1


async def test_who_comes_meanwhile_waits_for_the_one_who_submits() -> None:
    narrative, store = Narrative(), Replica()
    both = [asyncio.create_task(recorded(s).place("0", "", narrative.submit)) for s in (store, Replica(store))]
    await until(lambda: narrative.calls)
    narrative.go.set()
    jobs = {placed.job for placed in await asyncio.gather(*both)}
    assert jobs == {"job-1"}
    assert len(narrative.calls) == 1


async def test_one_who_leaves_does_not_stop_the_submission() -> None:
    narrative, store = Narrative(), Replica()
    leaver = asyncio.create_task(recorded(store).place("0", "", narrative.submit))
    await until(lambda: narrative.calls)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    narrative.go.set()
    assert (await recorded(store).place("0", "", narrative.submit)).job == "job-1"
    assert len(narrative.calls) == 1


async def test_the_promise_of_a_killed_replica_is_taken_over_by_looking_first() -> None:
    narrative, store = Narrative(), Replica()
    killed = asyncio.create_task(recorded(store).place("0", "blocks", narrative.submit))
    await until(lambda: narrative.calls)
    heir = Replica(store)
    heir.dead.add(store.replica)
    taken = asyncio.create_task(recorded(heir).place("0", "text", narrative.submit))
    await until(lambda: len(narrative.calls) >= 2)
    form, since = narrative.calls[1]
    assert form == "blocks", "as it may have been submitted"
    assert since is not None
    narrative.go.set()
    assert (await taken).form == "blocks"
    await killed


async def test_an_unknown_outcome_is_looked_for_by_the_next_one() -> None:
    narrative = Narrative(UpstreamError("?", code="narrative_submit_unknown"), "job-7")
    narrative.go.set()
    store = Replica()
    first = recorded(store)
    with pytest.raises(UpstreamError):
        await first.place("0", "", narrative.submit)
    assert first.spent
    assert (await recorded(store).place("0", "", narrative.submit)).job == "job-7"
    assert narrative.calls[1][1] is not None


async def test_a_refused_submission_leaves_nothing_behind() -> None:
    narrative = Narrative(RateLimited("no", retry_after=1.0))
    narrative.go.set()
    store = Replica()
    first = recorded(store)
    with pytest.raises(RateLimited):
        await first.place("0", "", narrative.submit)
    assert not first.spent
    assert len(store) == 0


async def test_a_submission_that_takes_too_long_elsewhere_is_a_conflict() -> None:
    narrative, store = Narrative(), Replica()
    busy = asyncio.create_task(recorded(store).place("0", "", narrative.submit))
    await until(lambda: narrative.calls)
    with pytest.raises(IdempotencyConflict) as caught:
        await recorded(Replica(store), patience_s=0.0).place("0", "", narrative.submit)
    assert caught.value.retry_after
    narrative.go.set()
    await busy


async def test_tags_are_the_same_for_everyone_and_differ_by_place() -> None:
    one, other = recorded(Replica()), recorded(Replica())
    assert one.tag("0.first") == other.tag("0.first")
    assert one.tag("0.first") != one.tag("1.first")
