"""Jobs over time, their listing, and the bounds of the table (contract narrative.md, GET /jobs)."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.narrative.types import Job as WireJob
from proxy.sandbox.jobs import NEVER, Job
from proxy.sandbox.listing import JobQuery, read_query, slow_page
from proxy.sandbox.refusal import Refusal
from tests.unit.sandbox.building import CONTENT, Counter, body, keyed, says


def test_states_follow_the_clock() -> None:
    counter = Counter(pending_s=1, running_s=2)
    job = counter.submit()
    seen = [job.state_at(job.created_at + after) for after in (0, 0.99, 1, 2.99, 3, 100)]
    assert seen == ["pending", "pending", "running", "running", "completed", "completed"]


def test_a_job_of_no_duration_is_completed_at_the_first_read() -> None:
    counter = Counter(pending_s=0, running_s=0)
    assert counter.submit().state_at(counter.now) == "completed"


def test_durations_can_be_lognormal_and_repeat_with_the_seed() -> None:
    def durations(seed: int) -> list[float]:
        counter = Counter(median_s=5, pending_s=1, seed=seed)
        return [round(job.ended_at - job.created_at, 9) for job in (counter.submit() for _ in range(200))]

    assert durations(1) == durations(1) != durations(2)
    assert 4 < sorted(durations(1))[100] < 6


def test_a_record_is_as_the_contract_shows_it() -> None:
    counter = Counter()
    record = counter.ended(tags=["rid:1"], temperature=0.5)
    assert set(record) == {
        "job_id", "type", "state", "data_plane_id", "input", "result", "failures", "idempotency_key", "executor",
        "request_source", "created_at", "updated_at", "ended_at",
    }  # fmt: skip
    assert record["input"] == body(tags=["rid:1"], temperature=0.5)
    assert set(record["result"]) == {"usage", "structured_output"}
    usage = record["result"]["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    parsed = WireJob.model_validate(record)
    assert (parsed.ended, parsed.tags) == (True, ("rid:1",))


def test_some_times_lack_a_zone_and_are_utc_all_the_same() -> None:
    counter = Counter()
    record = counter.ended()
    assert record["created_at"].endswith("Z")
    assert "Z" not in record["ended_at"]
    assert "+" not in record["ended_at"]
    assert WireJob.model_validate(record).ended_at == datetime.fromtimestamp(counter.now + 3, UTC)


def test_the_id_can_be_spelled_as_the_sdk_does() -> None:
    counter = Counter()
    job = counter.submit()
    assert "job_id" not in job.record(counter.now, id_name="id")
    assert job.record(counter.now, id_name="id")["id"] == job.id


def test_a_result_is_not_shown_before_the_end() -> None:
    counter = Counter()
    job = counter.submit()
    record = job.record(counter.now + 2)
    assert (record["result"], record["ended_at"]) == (None, None)


def test_tokens_are_four_characters_and_the_limit_fails_the_job() -> None:
    long = says("user", "say " + "x" * 388)
    usage = Counter().ended(long)["result"]["usage"]
    assert usage["completion_tokens"] == len('{"content":"' + "x" * 388 + '"}') // 4 + 1
    assert usage["prompt_tokens"] == (4 + 388 + len(orjson.dumps(CONTENT)) + 3) // 4
    assert Counter().ended(long, max_tokens=101)["state"] == "completed"
    failed = Counter().ended(long, max_tokens=100)
    assert (failed["state"], failed["failures"][0]["cause"]) == ("failed", "Token limit exceeded")


def test_a_prompt_over_the_context_is_refused_or_fails() -> None:
    with pytest.raises(Refusal, match="prompt is too long") as caught:
        Counter(context_tokens=20).submit()
    assert caught.value.status == 400
    assert Counter(context_tokens=20, refusals="fail").ended()["failures"][0]["cause"] == "Prompt too long"


def test_tool_blocks_can_be_refused() -> None:
    talk = [
        says("user", "a"),
        {"role": "assistant", "content": [{"type": "tool_use", "tool_use_id": "1", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": []}]},
    ]
    assert Counter().submit(*talk, schema=keyed())
    with pytest.raises(Refusal, match="Tool blocks not supported"):
        Counter(tool_blocks=False).submit(*talk)
    assert Counter(tool_blocks=False).submit()


def test_stop_sequences_cut_the_json_itself() -> None:
    """Trap: `stop` strings given to an upstream that writes JSON cut the wrapper itself."""
    assert Counter().ended(stop_sequences=["}"])["state"] == "failed"
    assert Counter().ended(stop_sequences=["nowhere"])["state"] == "completed"


def test_old_jobs_are_forgotten() -> None:
    counter = Counter(retention_s=10)
    job, running = counter.submit(), counter.submit(says("user", '[[sandbox {"state": "running"}]]'))
    counter.now += 3 + 9.9
    assert counter.store.get(job.id) is job
    counter.now += 0.2
    with pytest.raises(Refusal) as caught:
        counter.store.get(job.id)
    assert caught.value.status == 404
    assert counter.store.get(running.id) is running
    assert counter.store.page(JobQuery()).jobs == [running]
    assert len(counter.store) == 1


def test_the_table_is_bounded_in_number_and_bytes() -> None:
    counter = Counter(max_jobs=3)
    kept = [counter.submit() for _ in range(10)][-3:]
    assert counter.store.jobs() == kept
    assert counter.store.enqueued == 10
    heavy = Counter(max_bytes=5_000)
    for _ in range(10):
        heavy.submit(says("user", "x" * 1_000))
    assert 0 < len(heavy.store) <= 4


def test_a_job_can_be_ended_by_hand() -> None:
    counter = Counter()
    job = counter.submit(says("user", '[[sandbox {"state": "running"}]]'))
    counter.now += 5
    counter.store.finish(job.id)
    assert job.state_at(counter.now) == "completed"
    assert counter.store.page(JobQuery(state="completed", order_by="updated_at_desc")).jobs == [job]
    counter.store.finish(job.id, "cancelled")
    assert counter.store.page(JobQuery(state="completed", order_by="updated_at_desc")).jobs == []


@pytest.mark.parametrize(
    "params",
    [
        {"per_page": "0"},
        {"per_page": "501"},
        {"per_page": "ten"},
        {"per_page": ""},
        {"offset": "-1"},
        {"offset": "1.5"},
        {"order_by": "id"},
        {"state": "done"},
    ],
)
def test_a_wrong_query_is_refused_by_name(params: dict[str, str]) -> None:
    with pytest.raises(Refusal, match=next(iter(params))) as caught:
        read_query(params)
    assert caught.value.status == 400


def test_the_type_is_compared_loosely() -> None:
    counter = Counter()
    counter.submit()
    totals = [
        counter.store.page(read_query({"type": name})).total for name in ("model_inference", "model-inference", "other")
    ]
    assert totals == [1, 1, 0]


def test_pages_are_newest_created_first_and_counted() -> None:
    counter = Counter()
    made = [counter.submit() for _ in range(5)]
    query = read_query({"per_page": "2", "offset": "2"})
    page = counter.store.page(query)
    assert list(page.jobs) == [made[2], made[1]]
    assert page.counts(query) == {"current_page": 2, "total_pages": 3, "total_records": 5}


PLANES = ["00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"]


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    job = st.fixed_dictionaries(
        {
            "data_plane_id": st.sampled_from(PLANES),
            "created_at": st.integers(0, 10),
            "pending": st.integers(0, 5),
            "running": st.one_of(st.integers(0, 5), st.just(NEVER)),
            "outcome": st.sampled_from(["completed", "failed", "cancelled"]),
        }
    )
    return sorted(draw(st.lists(job, max_size=12)), key=lambda each: each["created_at"])


QUERIES = st.builds(
    JobQuery,
    state=st.sampled_from([None, "pending", "running", "completed", "failed", "cancelled"]),
    data_plane_id=st.sampled_from([None, *PLANES]),
    per_page=st.integers(1, 4),
    offset=st.integers(0, 5),
    order_by=st.sampled_from(["created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc"]),
)


@given(histories(), QUERIES, st.integers(10, 30))
def test_every_page_is_the_same_by_the_index_and_by_looking_at_every_job(
    history: list[dict[str, Any]], query: JobQuery, now: int
) -> None:
    counter = Counter()
    for number, made in enumerate(history):
        running_at = made["created_at"] + made["pending"]
        counter.now = made["created_at"]
        counter.store.add(
            Job(
                id=str(number),
                number=number,
                data_plane_id=made["data_plane_id"],
                input_json=b"{}",
                created_at=made["created_at"],
                running_at=running_at,
                ended_at=running_at + made["running"],
                outcome=made["outcome"],
            )
        )
    counter.now = now
    expected = slow_page(iter(counter.store.jobs()), query, now)
    page = counter.store.page(query)
    assert ([job.id for job in page.jobs], page.total) == ([job.id for job in expected.jobs], expected.total)
