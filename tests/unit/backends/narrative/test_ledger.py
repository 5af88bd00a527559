import asyncio
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from proxy.backends.narrative.agenda import Agenda
from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.ledger import Entry, Ledger, Phase, says_all
from proxy.backends.narrative.types import Job, RunResult, Usage
from proxy.errors import Overloaded


class Listener:
    def __init__(self) -> None:
        self.told: list[str] = []

    def added(self, entry: Entry) -> None:
        self.told.append(f"added {entry.job.id}")

    def ended(self, entry: Entry, source: str) -> None:
        self.told.append(f"ended {entry.job.id} by {source}")

    def left(self, entry: Entry) -> None:
        self.told.append(f"left {entry.job.id}")


class Client:
    def without_repeats(self) -> "Client":
        return self


def ledger() -> tuple[Ledger, Listener]:
    made, listener = Ledger(), Listener()
    made.listener = listener
    return made, listener


def open_job(made: Ledger, job_id: str = "job-1", seconds: float = 60.0) -> Entry:
    deadline = asyncio.get_running_loop().time() + seconds
    return made.open(Job(id=job_id), cast(NarrativeClient, Client()), deadline=deadline)


async def test_the_first_word_of_an_end_decides_and_later_ones_change_nothing() -> None:
    made, listener = ledger()
    entry = open_job(made)
    assert not made.report(Job(id="job-1", state="running"), "feed")
    assert made.report(Job(id="job-1", state="completed"), "feed")
    assert not made.report(Job(id="job-1", state="failed"), "webhook")
    assert entry.end.result().state == "completed"
    assert listener.told == ["added job-1", "ended job-1 by feed"]


async def test_news_of_jobs_that_are_not_in_flight_is_ignored() -> None:
    made, listener = ledger()
    assert not made.report(Job(id="job-1", state="completed"), "feed")
    assert listener.told == []


async def test_a_job_has_one_entry_and_the_place_of_the_second_is_given_back_at_once() -> None:
    made, _ = ledger()
    given_back = []
    deadline = asyncio.get_running_loop().time() + 60
    client = cast(NarrativeClient, Client())
    one = made.open(Job(id="job-1"), client, deadline=deadline, on_left=lambda: given_back.append(1))
    two = made.open(Job(id="job-1"), client, deadline=deadline + 60, on_left=lambda: given_back.append(2))
    assert one is two
    assert one.deadline == deadline + 60
    assert given_back == [2]
    made.close(one)
    made.close(one)
    assert given_back == [2, 1]
    assert len(made) == 0


async def test_a_job_is_as_old_as_it_says_or_else_as_its_submission() -> None:
    made, _ = ledger()
    client = cast(NarrativeClient, Client())
    now = asyncio.get_running_loop().time()
    created = datetime.now(UTC) - timedelta(seconds=30)
    told = made.open(Job(id="job-1", created_at=created), client, deadline=now + 60, sent=now - 5)
    untold = made.open(Job(id="job-2"), client, deadline=now + 60, sent=now - 5)
    assert told.started == pytest.approx(now - 30, abs=1)
    assert untold.started == now - 5


async def test_every_wait_can_be_ended_with_an_error() -> None:
    made, _ = ledger()
    entries = [open_job(made, f"job-{number}") for number in range(3)]
    made.report(Job(id="job-0", state="completed"), "look")
    made.fail_all(lambda entry: Overloaded("stopping", job_id=entry.job.id))
    assert entries[0].end.result().ended
    for entry in entries[1:]:
        with pytest.raises(Overloaded):
            entry.end.result()


@pytest.mark.parametrize(
    ("job", "complete"),
    [
        (Job(id="j", state="completed"), False),
        (Job(id="j", state="completed", result=RunResult(usage=Usage(total_tokens=1))), False),
        (Job(id="j", state="completed", result=RunResult(structured_output={})), True),
        (Job(id="j", state="failed"), False),
        (Job(id="j", state="failed", failures=("no",)), True),
        (Job(id="j", state="cancelled"), True),
    ],
)
def test_a_record_without_what_a_caller_needs_has_to_be_read(job: Job, complete: bool) -> None:
    assert says_all(job) is complete


async def test_the_agenda_gives_entries_in_order_and_only_their_last_time() -> None:
    made, _ = ledger()
    agenda = Agenda()
    one, two, gone = (open_job(made, f"job-{number}") for number in range(3))
    agenda.plan(one, 5.0)
    agenda.plan(two, 3.0)
    agenda.plan(gone, 1.0)
    agenda.plan(one, 2.0)
    gone.phase = Phase.GONE
    assert agenda.due(0.5) == []
    assert agenda.due(10.0) == [one, two]
    assert agenda.next_at == float("inf")


async def test_the_agenda_stays_small_however_often_entries_are_planned_anew() -> None:
    """Trap: memory grows with what nobody waits for any more."""
    made, _ = ledger()
    agenda = Agenda()
    entry = open_job(made)
    for time in range(20_000):
        agenda.plan(entry, float(time))
        agenda.tidy(live=1)
    assert len(agenda._items) <= 1_005
    assert agenda.due(1e9) == [entry]
