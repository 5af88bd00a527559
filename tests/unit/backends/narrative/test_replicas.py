import json
from typing import Any

import pytest

from proxy.backends.narrative import replicas
from proxy.backends.narrative.replicas import ListRead, decode_read, encode_read
from proxy.backends.narrative.types import JobRecord
from tests.records import record_of


def record(job_id: str, output: Any = None, tags: Any = ("rid:1",)) -> JobRecord:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return record_of(
        {
            "job_id": job_id,
            "state": "completed",
            "input": {"messages": ["a secret prompt"], "tags": list(tags)},
            "result": {"usage": usage, "structured_output": output if output is not None else {"text": "hi"}},
        }
    )


def sent(records: list[JobRecord], known: set[str] | None = None) -> ListRead:
    read = decode_read(encode_read("account", "completed", records, known or set()))
    assert read is not None
    return read


def has_result(shown: JobRecord) -> bool:
    job = shown.job()
    return job is not None and job.result is not None


@pytest.mark.parametrize("output", [{"a": 1.0, "b": 10**30, "c": "\ud83d"}, {"a": 1.5e-7}])
def test_a_result_is_sent_exactly_and_whole(output: Any) -> None:
    [shown] = sent([record("job-1", output)]).records
    job = shown.job()
    assert job is not None
    assert job.complete
    assert job.result is not None
    expected = {name: "\ufffd" if value == "\ud83d" else value for name, value in output.items()}
    assert repr(job.result.structured_output) == repr(expected)


def test_prompts_are_not_sent() -> None:
    assert "secret" not in encode_read("account", "completed", [record("job-1")], set())


@pytest.mark.parametrize("tags", [(), ("other:1",), (5, None)])
def test_of_other_applications_jobs_only_the_id_is_sent(tags: Any) -> None:
    message = json.loads(encode_read("account", "completed", [record("job-1", tags=tags)], set()))
    assert message["records"] == [{"job_id": "job-1", "state": "completed"}]


def test_what_earlier_reads_showed_is_sent_again_but_not_whole() -> None:
    read = sent([record("job-2"), record("job-1")], known={"job-1"})
    assert [has_result(each) for each in read.records] == [True, False]
    assert read.ids == {"job-1", "job-2"}


def test_too_much_is_sent_without_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "_MOST_BYTES", 1_000)
    read = sent([record(f"job-{number}", {"text": "long " * 100}) for number in range(5)])
    assert len(read.ids) == 5
    assert not any(has_result(each) for each in read.records)


def test_records_without_an_id_are_not_sent() -> None:
    assert sent([JobRecord(), record_of({"job_id": 5}), record("job-1")]).ids == {"job-1"}


@pytest.mark.parametrize(
    "text", ["", "junk", "[]", "{}", "5", json.dumps({"account": 5, "state": "a", "records": []}), "[" * 10_000]
)
def test_messages_that_make_no_sense_are_none(text: str) -> None:
    assert decode_read(text) is None
