"""What is taken for a repeat, and what becomes of it. The wire is tested in `tests/wire/test_idempotency.py`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from proxy.access.authentication import Caller
from proxy.errors import (
    IdempotencyMismatch,
    InvalidRequest,
    JobTimeout,
    Overloaded,
    PaidFailure,
    ProxyError,
    RateLimited,
    UpstreamError,
)
from proxy.inference.backend import Report, RunOptions
from proxy.inference.idempotency import Idempotency, Repeat, Terms
from proxy.inference.request import Request, ToolCall
from proxy.inference.result import Choice, Result, Usage, fold
from proxy.settings import StateSettings
from proxy.storage import MemoryStore
from tests.unit.inference.fakes import ME, FakeBackend, FakeRun, asking

FAILED = PaidFailure("Job 7 failed: broken", code="narrative_job_failed", job_id="7")
KEYED = Terms(key="order-1")
PLAIN = Terms()
RETRY = Terms(is_retry=True)
SESSION = Terms(is_retry=True, in_session=True)


class Submitting(FakeBackend):
    """Records its submissions as a backend of jobs does.

    Attributes:
        jobs: ids of the jobs paid for.
    """

    def __init__(self, store: MemoryStore) -> None:
        super().__init__()
        self.store = store
        self.jobs: list[str] = []

    async def start(self, request: Request, caller: Caller, options: RunOptions) -> FakeRun:
        assert options.record is not None
        name = options.record.name
        for choice in range(request.choices):
            slot = f"{choice}.first"
            if slot in await self.store.read(name):
                continue
            if error := self.errors.get(request.model):
                raise error
            self.jobs.append(slot)
            await self.store.put(name, slot, f"job-{len(self.jobs)}", ttl_s=options.record.ttl_s)
        return await super().start(request, caller, options)

    async def discard(self, choice: int) -> None:
        """What a backend does when a choice's job failed."""
        record = self.started[-1][2].record
        assert record is not None
        await self.store.remove(record.name, f"{choice}.first")


class Server:
    """A replica: the layer, its store and its backend."""

    def __init__(
        self, store: MemoryStore | None = None, *, clock: Callable[[], float] = time.time, **options: Any
    ) -> None:
        self.store = MemoryStore() if store is None else store
        self.backend = Submitting(self.store)
        self.repeats: list[Repeat] = []
        self.layer = Idempotency(
            self.backend, self.store, StateSettings.model_construct(**options), self.repeats.append, clock
        )

    @property
    def jobs(self) -> int:
        return len(self.backend.jobs)

    async def start(
        self, terms: Terms = PLAIN, *, body: str = "b1", api: str = "openai", caller: Caller = ME, choices: int = 1
    ) -> Any:
        return await self.layer.start(asking(choices=choices), caller, terms, api=api, body=body)

    async def deliver(self, terms: Terms = PLAIN, **which: Any) -> Result:
        run = await self.start(terms, **which)
        result: Result = await run.result()
        run.close(delivered=True)
        return result

    async def leave(self, terms: Terms = PLAIN, **which: Any) -> None:
        run = await self.start(terms, **which)
        run.close(delivered=False)

    async def fail(self, error: ProxyError, terms: Terms = PLAIN, *, discard: bool = True, **which: Any) -> ProxyError:
        """A request whose run ends with an error."""
        self.backend.later["first"] = error
        run = await self.start(terms, **which)
        if discard:
            await self.backend.discard(0)
        with pytest.raises(type(error)) as caught:
            await run.result()
        run.close(delivered=False)
        self.backend.later.clear()
        return caught.value


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    async with made.layer:
        yield made


# ---------------------------------------------------------------- undelivered answers


@pytest.mark.parametrize("again", [PLAIN, RETRY])
async def test_an_undelivered_job_is_taken_up_by_any_equal_request(server: Server, again: Terms) -> None:
    await server.leave()
    await server.deliver(again)
    assert server.jobs == 1
    assert server.repeats == ["adopted"]


async def test_a_delivered_answer_is_not_given_again(server: Server) -> None:
    await server.deliver()
    await server.deliver(RETRY)
    assert server.jobs == 2
    assert server.repeats == []


async def test_within_a_session_an_answer_that_was_written_is_given_again(server: Server) -> None:
    for _ in range(3):
        await server.deliver(SESSION)
    assert server.jobs == 1
    await server.deliver(PLAIN)
    await server.deliver(SESSION, body="b2")
    assert server.jobs == 3
    assert server.repeats == ["adopted"] * 2


async def test_within_a_session_equal_requests_at_the_same_time_have_a_job_each(server: Server) -> None:
    await asyncio.gather(*(server.start(SESSION) for _ in range(2)))
    assert server.jobs == 2


async def test_what_a_session_was_answered_is_forgotten_after_a_minute() -> None:
    now = [0.0]
    server = Server(MemoryStore(clock=lambda: now[0]), clock=lambda: now[0])
    for jobs in (1, 2):
        async with server.layer:  # which ends when everything is written
            await server.deliver(SESSION)
        assert server.jobs == jobs
        now[0] += 61
        assert [await server.store.read(name) for name in list(server.store._records)] == [{}, {}]


async def test_an_undelivered_job_is_taken_up_once(server: Server) -> None:
    await server.leave()
    await asyncio.gather(*(server.start() for _ in range(3)))
    assert server.jobs == 3


async def test_equal_requests_at_the_same_time_have_a_job_each(server: Server) -> None:
    first = await server.start()
    second = await server.start()
    assert server.jobs == 2
    first.close(delivered=False)
    second.close(delivered=True)
    await server.deliver()
    assert server.jobs == 2


@pytest.mark.parametrize(
    "which",
    [
        {"body": "b2"},
        {"api": "elastic"},
        {"caller": replace(ME, id="other")},
        {"caller": replace(ME, data_plane_id="other")},
    ],
)
async def test_another_request_takes_up_nothing(server: Server, which: dict[str, Any]) -> None:
    await server.leave()
    await server.deliver(**which)
    assert server.jobs == 2


@pytest.mark.parametrize(("adopt", "jobs"), [("equal", [1, 1]), ("sdk_retry", [2, 2]), ("off", [2, 3])])
async def test_the_setting_says_which_repeats_take_up_jobs(adopt: str, jobs: list[int]) -> None:
    server = Server(adopt=adopt)
    async with server.layer:
        await server.leave()
        await server.leave()
        assert server.jobs == jobs[0]
        await server.deliver(RETRY)
        assert server.jobs == jobs[1]


@pytest.mark.parametrize(("adopt", "jobs"), [("equal", 1), ("sdk_retry", 1), ("off", 2)])
async def test_the_setting_says_whether_a_session_is_answered_again(adopt: str, jobs: int) -> None:
    server = Server(adopt=adopt)
    async with server.layer:
        await server.deliver(SESSION)
        await server.deliver(SESSION)
        assert server.jobs == jobs


async def test_jobs_are_taken_up_for_a_limited_time() -> None:
    server = Server(adopt_ttl_s=0.0)
    async with server.layer:
        await server.leave()
        await server.deliver()
    assert server.jobs == 2


async def test_a_client_that_leaves_while_its_job_is_submitted_leaves_the_record(server: Server) -> None:
    gone = asyncio.Event()

    class Slow(Submitting):
        async def start(self, request: Request, caller: Caller, options: RunOptions) -> FakeRun:
            await super().start(request, caller, options)
            gone.set()
            raise await asyncio.get_running_loop().create_future()

    slow = Slow(server.store)
    server.layer.backend = slow
    task = asyncio.create_task(server.start())
    await gone.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.layer.backend = server.backend
    await server.deliver()
    assert server.jobs == 0, "the job of the one that left is used"


async def test_the_job_of_a_killed_replica_is_taken_up_elsewhere(server: Server) -> None:
    await server.start()
    other = Server(Shared(server.store, alive=False))
    async with other.layer:
        await other.deliver()
    assert (server.jobs, other.jobs) == (1, 0)


async def test_an_sdks_retry_waits_to_learn_whether_a_replica_was_killed(server: Server) -> None:
    await server.start()
    shared = Shared(server.store, alive=True)
    other = Server(shared)
    async with other.layer:
        await other.deliver(PLAIN)
        assert other.jobs == 1, "no other request waits"
        shared.asked.clear()
        waiting = asyncio.create_task(other.deliver(RETRY))
        await shared.asked.wait()
        shared.others_alive = False
        await waiting
    assert other.jobs == 1


class Shared(MemoryStore):
    """The store of another replica on the same Redis. `asked` is set when it is asked whether a replica runs."""

    def __init__(self, other: MemoryStore, *, alive: bool) -> None:
        super().__init__()
        self._records = other._records
        self.others_alive = alive
        self.asked = asyncio.Event()

    async def alive(self, replica: str) -> bool:
        self.asked.set()
        return replica == self.replica or self.others_alive


async def test_nothing_is_kept_of_requests_that_were_answered_or_refused(server: Server) -> None:
    await server.deliver()
    server.backend.errors["first"] = RateLimited("no", retry_after=1)
    with pytest.raises(RateLimited):
        await server.start()
    await server.layer.__aexit__(None, None, None)
    assert len(server.store) == 0


async def test_where_nothing_can_be_taken_up_nothing_is_kept_of_a_running_request() -> None:
    server = Server(adopt="off")
    run = await server.start()
    record = server.backend.started[0][2].record
    assert record is not None
    await server.store.remove(record.name)
    assert len(server.store) == 0
    run.close(delivered=True)
    await server.layer.__aexit__(None, None, None)
    await server.fail(FAILED)
    with pytest.raises(PaidFailure):
        await server.start()
    assert server.jobs == 2


async def test_of_very_many_equal_requests_only_so_many_are_kept(server: Server) -> None:
    runs = [await server.start() for _ in range(110)]
    for run in runs:
        run.close(delivered=False)
    await server.layer.__aexit__(None, None, None)
    assert len(server.store) < 105


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (JobTimeout("too late"), 1.0),
        (UpstreamError("?", code="narrative_submit_unknown"), 1.0),
        (UpstreamError("?", code="narrative_unavailable", retry_after=3.0), 3.0),
        (Overloaded("draining"), None),
        (Overloaded("draining", retry_after=2.0), 2.0),
        (UpstreamError("?", code="narrative_unauthorized"), None),
    ],
)
@pytest.mark.parametrize(("adopt", "terms"), [("equal", PLAIN), ("off", PLAIN), ("off", KEYED)])
async def test_a_repeat_is_invited_when_it_takes_up_the_job(
    error: ProxyError, advice: float | None, adopt: str, terms: Terms
) -> None:
    server = Server(adopt=adopt)
    error = type(error)(error.message, code=error.code, retry_after=error.retry_after)
    async with server.layer:
        raised = await server.fail(error, terms, discard=False)
        free = adopt == "equal" or terms is KEYED
        assert raised.retry_after == (advice if free else None)
        await server.deliver(terms)
        assert server.jobs == (1 if free else 2)


async def test_an_error_without_a_job_keeps_its_advice(server: Server) -> None:
    server.backend.errors["first"] = RateLimited("no", retry_after=7.0)
    with pytest.raises(RateLimited) as caught:
        await server.start()
    assert caught.value.retry_after == 7.0
    server.backend.errors.clear()
    await server.deliver()
    assert server.repeats == []


@pytest.mark.parametrize("terms", [PLAIN, KEYED])
async def test_a_paid_failure_is_given_again_without_a_job(server: Server, terms: Terms) -> None:
    await server.fail(FAILED, terms)
    for _ in range(2):
        with pytest.raises(PaidFailure) as caught:
            await server.start(terms)
        again = caught.value
        assert (again.message, again.code, again.param, again.job_id) == (
            FAILED.message, "narrative_job_failed", None, "7",
        )  # fmt: skip
        assert again.retry_after is None
    assert server.jobs == 1
    assert server.repeats == [{PLAIN: "failed_again", KEYED: "replayed"}[terms]] * 2


async def test_a_paid_failure_is_given_to_nobody_else(server: Server) -> None:
    await server.fail(FAILED)
    await server.deliver(body="b2")
    await server.deliver(caller=replace(ME, id="other"))
    await server.deliver(api="elastic")
    with pytest.raises(PaidFailure):
        await server.start(KEYED)
    assert server.jobs == 4


@pytest.mark.parametrize("seconds", [0.0, 0.01])
async def test_a_paid_failure_is_given_again_for_a_limited_time(seconds: float) -> None:
    now = 0.0
    server = Server(clock=lambda: now, replay_failures_s=seconds)
    async with server.layer:
        await server.fail(FAILED)
        now = 0.02
        await server.deliver()
    assert server.jobs == 2


async def test_a_failed_stream_is_recorded_as_well(server: Server) -> None:
    server.backend.later["first"] = FAILED
    run = await server.start()
    await server.backend.discard(0)
    with pytest.raises(PaidFailure):
        [event async for batch in run.events() for event in batch]
    with pytest.raises(PaidFailure):
        await server.start()
    assert server.jobs == 1


async def test_a_stored_failure_is_bounded(server: Server) -> None:
    await server.fail(PaidFailure("x" * 100_000, code="narrative_job_failed"))
    with pytest.raises(PaidFailure) as caught:
        await server.start()
    assert len(caught.value.message) == 2_000


@pytest.mark.parametrize("terms", [PLAIN, KEYED])
async def test_a_repeat_after_one_choice_failed_pays_for_that_choice_only(server: Server, terms: Terms) -> None:
    await server.fail(FAILED, terms, choices=3)
    assert server.jobs == 3
    await server.deliver(terms, choices=3)
    assert server.backend.jobs[3:] == ["0.first"]


async def test_when_all_choices_failed_the_failure_is_given_again(server: Server) -> None:
    server.backend.later["first"] = FAILED
    run = await server.start(choices=2)
    for choice in (0, 1):
        await server.backend.discard(choice)
    with pytest.raises(PaidFailure):
        await run.result()
    with pytest.raises(PaidFailure):
        await server.start(choices=2)
    assert server.jobs == 2


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize("first", ["result", "events"])
@pytest.mark.parametrize("again", ["result", "events"])
async def test_a_key_gives_the_result_again_whole_or_streamed(server: Server, first: str, again: str) -> None:
    results = []
    for way in (first, again):
        run = await server.start(KEYED)
        results.append(await _through(run, way))
        assert run.report == Report(model="id", job_ids=("job-1",), adjusted=("a", "b"))
        run.close(delivered=True)
    assert results[0] == results[1]
    assert server.jobs == 1
    assert server.repeats == ["replayed"]


async def _through(run: Any, way: str) -> Result:
    if way == "result":
        result: Result = await run.result()
        return result
    return fold([event async for batch in run.events() for event in batch])


async def test_every_part_of_a_result_is_given_again(server: Server) -> None:
    calls = (ToolCall("c1", "look", {"deep": [{"n": 2**70}, None, 0.5, "\ud800"]}), ToolCall("c2", "look", {}))
    choices = (Choice(None, calls, "hm", "tool_calls"), Choice("é", (), None, "stop", "END"))
    result = Result("id", 1, "fp", choices, Usage(1, 2, 3), ({"type": "start", "usage": {"n": [1]}}, {"type": "stop"}))
    report = Report("m", ("j1", "j2"), ("seed",), ("top_p: left out",), "no match", "second", {"x-ratelimit": "1"})
    await server.deliver(KEYED)
    name = str(server.backend.started[0][2].record.name)  # type: ignore[union-attr]
    place = type("P", (), {"record": name})
    await server.layer.store_result(place, result, report)  # type: ignore[arg-type]
    again = await server.start(KEYED)
    assert await again.result() == result
    assert again.report == replace(report, rate_limits={})


async def test_a_result_of_another_version_is_read_from_its_job_again(server: Server) -> None:
    await server.deliver(KEYED)
    record = server.backend.started[0][2].record
    assert record is not None
    await server.store.put(record.name, "@result", json.dumps({"result": {"choices": []}, "report": {}}), ttl_s=60.0)
    await server.deliver(KEYED)
    assert (server.jobs, server.repeats) == (1, ["joined"])


async def test_a_long_result_is_not_kept_and_its_job_read_again() -> None:
    server = Server(max_answer_bytes=100)
    async with server.layer:
        await server.deliver(KEYED)
        await server.deliver(KEYED)
    assert (server.jobs, server.repeats) == (1, ["joined"])


async def test_a_key_with_another_body_is_refused(server: Server) -> None:
    await server.deliver(KEYED)
    with pytest.raises(IdempotencyMismatch):
        await server.start(KEYED, body="b2")
    assert server.repeats == ["mismatch"]


async def test_a_key_of_another_api_or_caller_is_another_key(server: Server) -> None:
    await server.deliver(KEYED)
    await server.deliver(KEYED, api="elastic", body="b2")
    await server.deliver(KEYED, caller=replace(ME, id="other"), body="b2")
    assert server.jobs == 3


async def test_a_key_whose_request_was_refused_may_be_used_again(server: Server) -> None:
    server.backend.errors["first"] = InvalidRequest("no")
    with pytest.raises(InvalidRequest):
        await server.start(KEYED)
    assert len(server.store) == 0
    server.backend.errors.clear()
    await server.deliver(KEYED, body="b2")


async def test_one_who_joined_and_was_refused_does_not_free_the_key(server: Server) -> None:
    hold = asyncio.Event()

    class Waiting(Submitting):
        async def start(self, request: Request, caller: Caller, options: RunOptions) -> FakeRun:
            if not hold.is_set():
                hold.set()
                raise await asyncio.get_running_loop().create_future()
            raise RateLimited("no", retry_after=1)

    server.layer.backend = Waiting(server.store)
    first = asyncio.create_task(server.start(KEYED))
    await hold.wait()
    with pytest.raises(RateLimited):
        await server.start(KEYED)
    with pytest.raises(IdempotencyMismatch):
        await server.start(KEYED, body="b2")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_requests_with_one_key_share_a_job(server: Server) -> None:
    runs = [await server.start(KEYED) for _ in range(3)]
    assert server.jobs == 1
    for run in runs:
        await run.result()
        run.close(delivered=True)
    await server.deliver(KEYED)
    assert server.repeats == ["joined", "joined", "replayed"]


# ---------------------------------------------------------------- keys that an API derives


DERIVED = Terms(key="turn 1", derived_ttl_s=7.0)


async def test_a_derived_key_keeps_no_result_and_takes_up_the_jobs_again() -> None:
    server = Server()
    await server.deliver(DERIVED)
    await server.deliver(DERIVED)
    assert (server.jobs, server.repeats) == (1, ["joined"])
    record = server.backend.started[0][2].record
    assert record is not None
    assert list(await server.store.read(record.name)) == ["0.first"]


async def test_a_failure_under_a_derived_key_is_raised_again_for_some_seconds_only() -> None:
    now = 1000.0
    server = Server(clock=lambda: now, replay_failures_s=15.0)
    await server.fail(FAILED, DERIVED)
    with pytest.raises(PaidFailure):
        await server.start(DERIVED)
    now += 16.0
    await server.deliver(DERIVED)
    assert server.jobs == 2


async def test_a_derived_key_lives_as_long_as_its_api_says() -> None:
    server = Server()
    await server.deliver(DERIVED)
    record = server.backend.started[0][2].record
    assert record is not None
    assert record.ttl_s == 7.0


@pytest.mark.parametrize("terms", [KEYED, DERIVED, PLAIN], ids=["key", "derived key", "no key"])
async def test_all_repeats_of_a_request_are_told_the_same_id_before_it_is_answered(terms: Terms) -> None:
    server = Server()
    ids: list[str] = []

    async def start(end: str) -> None:
        run = await server.layer.start(asking(), ME, terms, api="responses", body="b1", accepted=ids.append)
        assert ids, end
        await run.result()
        run.close(delivered=end == "delivered")

    await start("left")
    await start("delivered")
    assert len(set(ids)) == 1
    assert server.jobs == 1
