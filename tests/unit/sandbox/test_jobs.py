"""Jobs over time, their listing, and the bounds of the table (contract narrative.md, GET /jobs)."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sandbox.http import SandboxError, parse
from proxy.sandbox.jobs import NEVER, JobQuery, SandboxJob
from tests.records import job_of
from tests.unit.sandbox.building import CONTENT, StoppedSandbox, body, keyed, says


def test_states_follow_the_clock() -> None:
    sandbox = StoppedSandbox(pending_s=1, running_s=2)
    job = sandbox.submit()
    seen = [job.state_at(job.created_at + after) for after in (0, 0.99, 1, 2.99, 3, 100)]
    assert seen == ["pending", "pending", "running", "running", "completed", "completed"]


def test_a_job_of_no_duration_is_completed_at_the_first_read() -> None:
    sandbox = StoppedSandbox(pending_s=0, running_s=0)
    assert sandbox.submit().state_at(sandbox.now) == "completed"


def test_a_record_is_as_the_contract_shows_it() -> None:
    sandbox = StoppedSandbox()
    record = sandbox.ended(tags=["rid:1"], temperature=0.5)
    assert set(record) == {
        "job_id", "type", "state", "data_plane_id", "input", "result", "failures", "idempotency_key", "executor",
        "request_source", "created_at", "updated_at", "ended_at",
    }  # fmt: skip
    assert record["input"] == body(tags=["rid:1"], temperature=0.5)
    assert set(record["result"]) == {"usage", "structured_output"}
    usage = record["result"]["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    parsed = job_of(record)
    assert (parsed.ended, parsed.tags) == (True, ("rid:1",))


def test_some_times_lack_a_zone_and_are_utc_all_the_same() -> None:
    sandbox = StoppedSandbox()
    record = sandbox.ended()
    assert record["created_at"].endswith("Z")
    assert "Z" not in record["ended_at"]
    assert "+" not in record["ended_at"]
    assert job_of(record).ended_at == datetime.fromtimestamp(sandbox.now + 3, UTC)


def test_the_id_can_be_spelled_as_the_sdk_does() -> None:
    sandbox = StoppedSandbox(id_name="id")
    job = sandbox.submit()
    record = orjson.loads(job.record(sandbox.now))
    assert "job_id" not in record
    assert record["id"] == job.id


def test_a_result_is_not_shown_before_the_end() -> None:
    sandbox = StoppedSandbox()
    job = sandbox.submit()
    record = orjson.loads(job.record(sandbox.now + 2))
    assert (record["result"], record["ended_at"]) == (None, None)


def test_tokens_are_four_characters_and_the_limit_fails_the_job() -> None:
    long = says("user", "x" * 378)
    usage = StoppedSandbox().ended(long)["result"]["usage"]
    assert usage["completion_tokens"] == len('{"content":"You said: ' + "x" * 378 + '"}') // 4 + 1
    assert usage["prompt_tokens"] == (378 + len(orjson.dumps(CONTENT)) + 3) // 4
    assert StoppedSandbox().ended(long, max_tokens=101)["state"] == "completed"
    failed = StoppedSandbox().ended(long, max_tokens=100)
    assert (failed["state"], failed["failures"][0]["cause"]) == ("failed", "Token limit exceeded")


def test_a_prompt_over_the_context_is_refused_or_fails() -> None:
    with pytest.raises(SandboxError, match="prompt is too long") as caught:
        StoppedSandbox(context_tokens=20).submit()
    assert caught.value.status == 400
    assert StoppedSandbox(context_tokens=20, refusals="fail").ended()["failures"][0]["cause"] == "Prompt too long"


def test_tool_blocks_can_be_refused() -> None:
    talk = [
        says("user", "a"),
        {"role": "assistant", "content": [{"type": "tool_use", "tool_use_id": "1", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": []}]},
    ]
    assert StoppedSandbox().submit(*talk, schema=keyed())
    with pytest.raises(SandboxError, match="Tool blocks not supported"):
        StoppedSandbox(tool_blocks=False).submit(*talk)
    assert StoppedSandbox(tool_blocks=False).submit()


def test_stop_sequences_cut_the_json_itself() -> None:
    """Trap: `stop` strings given to an upstream that writes JSON cut the wrapper itself."""
    assert StoppedSandbox().ended(stop_sequences=["}"])["state"] == "failed"
    assert StoppedSandbox().ended(stop_sequences=["nowhere"])["state"] == "completed"


def test_old_jobs_are_forgotten() -> None:
    sandbox = StoppedSandbox(retention_s=10)
    job, running = sandbox.submit(), sandbox.submit(says("user", '[[sandbox {"state": "running"}]]'))
    sandbox.now += 3 + 9.9
    assert sandbox.store.get(job.id) is job
    sandbox.now += 0.2
    with pytest.raises(SandboxError) as caught:
        sandbox.store.get(job.id)
    assert caught.value.status == 404
    assert sandbox.store.get(running.id) is running
    assert sandbox.listed(JobQuery()) == [running.id]
    assert len(sandbox.store) == 1


def test_the_table_is_bounded_in_number_and_bytes() -> None:
    sandbox = StoppedSandbox(max_jobs=3)
    kept = [sandbox.submit() for _ in range(10)][-3:]
    assert sandbox.store.jobs() == kept
    assert sandbox.store.enqueued == 10
    heavy = StoppedSandbox(max_bytes=5_000)
    for _ in range(10):
        heavy.submit(says("user", "x" * 1_000))
    assert 0 < len(heavy.store) <= 4


def test_jobs_that_have_ended_are_forgotten_before_those_that_run() -> None:
    sandbox = StoppedSandbox(max_jobs=3)
    runs, ends = says("user", '[[sandbox {"state": "running"}]]'), says("user", '[[sandbox {"delay": 0}]]')
    running = [sandbox.submit(runs)]
    ended = [sandbox.submit(ends)]
    sandbox.now += 1
    ended.append(sandbox.submit(ends))
    sandbox.now += 1
    running.append(sandbox.submit(runs))
    assert sandbox.store.jobs() == [running[0], ended[1], running[1]]
    running.append(sandbox.submit(runs))
    assert sandbox.store.jobs() == running
    running.append(sandbox.submit(runs))
    assert sandbox.store.jobs() == running[1:]


def test_a_job_that_will_end_soon_has_not_ended_yet() -> None:
    sandbox = StoppedSandbox(max_jobs=2)
    slow = sandbox.submit(says("user", '[[sandbox {"delay": 60}]]'))
    soon = sandbox.submit(says("user", '[[sandbox {"delay": 1}]]'))
    last = sandbox.submit(says("user", '[[sandbox {"delay": 30}]]'))
    assert slow not in sandbox.store.jobs()
    assert sandbox.store.jobs() == [soon, last]


@pytest.mark.parametrize("spare", [-1, 0])
def test_the_bound_in_bytes_is_exact_and_counts_input_and_result(spare: int) -> None:
    size = StoppedSandbox().submit().size
    assert size > len(orjson.dumps(body()))
    sandbox = StoppedSandbox(max_bytes=2 * size + spare)
    for _ in range(3):
        sandbox.submit()
    assert len(sandbox.store) == 2 + spare


def test_a_record_shows_each_state_however_often_it_is_read() -> None:
    sandbox = StoppedSandbox()
    job = sandbox.submit()
    moments = [job.created_at, job.running_at, job.ended_at]
    seen = [orjson.loads(job.record(moment)) for moment in moments * 2]
    assert [record["state"] for record in seen] == ["pending", "running", "completed"] * 2
    assert seen[:3] == seen[3:]


def test_a_job_ended_by_hand_shows_its_new_end() -> None:
    sandbox = StoppedSandbox()
    job = sandbox.submit()
    planned = orjson.loads(job.record(job.ended_at))
    sandbox.now += 1
    sandbox.store.finish(job.id, "failed")
    record = orjson.loads(job.record(sandbox.now))
    assert (record["state"], record["result"]) == ("failed", None)
    assert record["ended_at"] < planned["ended_at"]


def test_a_job_can_be_ended_by_hand() -> None:
    sandbox = StoppedSandbox()
    job = sandbox.submit(says("user", '[[sandbox {"state": "running"}]]'))
    sandbox.now += 5
    sandbox.store.finish(job.id)
    assert job.state_at(sandbox.now) == "completed"
    assert sandbox.listed(JobQuery(state="completed", order_by="updated_at_desc")) == [job.id]
    sandbox.store.finish(job.id, "cancelled")
    assert sandbox.listed(JobQuery(state="completed", order_by="updated_at_desc")) == []


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
    with pytest.raises(SandboxError, match=next(iter(params))) as caught:
        parse(JobQuery, params)
    assert caught.value.status == 400


def test_the_type_is_compared_loosely() -> None:
    sandbox = StoppedSandbox()
    sandbox.submit()
    totals = [
        orjson.loads(sandbox.store.page(parse(JobQuery, {"type": name})))["total_records"]
        for name in ("model_inference", "model-inference", "other")
    ]
    assert totals == [1, 1, 0]


def test_pages_are_newest_created_first_and_counted() -> None:
    sandbox = StoppedSandbox()
    made = [sandbox.submit() for _ in range(5)]
    query = parse(JobQuery, {"per_page": "2", "offset": "2"})
    shown = orjson.loads(sandbox.store.page(query))
    assert [record["job_id"] for record in shown.pop("records")] == [made[2].id, made[1].id]
    assert shown == {"current_page": 2, "total_pages": 3, "total_records": 5}
    assert sandbox.listed(JobQuery(offset=9)) == []


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
    sandbox = StoppedSandbox()
    for number, made in enumerate(history):
        running_at = made["created_at"] + made["pending"]
        sandbox.now = made["created_at"]
        sandbox.store.add(
            SandboxJob(
                id=str(number),
                data_plane_id=made["data_plane_id"],
                input_json=b"{}",
                created_at=made["created_at"],
                running_at=running_at,
                ended_at=running_at + made["running"],
                outcome=made["outcome"],
            )
        )
    sandbox.now = now
    expected, total = query.page_of(sandbox.store.jobs(), now)
    page = orjson.loads(sandbox.store.page(query))
    assert [record["job_id"] for record in page["records"]] == [job.id for job in expected]
    assert page["total_records"] == total
