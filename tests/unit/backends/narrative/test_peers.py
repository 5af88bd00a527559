import json
from typing import Any

import pytest

from proxy.backends.narrative import peers
from proxy.backends.narrative.client import read_record
from proxy.backends.narrative.ledger import says_all
from proxy.backends.narrative.peers import Shown, record_of, words_of_end, words_of_read


def record(job_id: str, output: Any = None, tags: Any = ("rid:1",)) -> dict[str, Any]:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return {
        "job_id": job_id,
        "state": "completed",
        "input": {"messages": ["a secret prompt"], "tags": list(tags)},
        "result": {"usage": usage, "structured_output": output if output is not None else {"text": "hi"}},
    }


def told(records: list[dict[str, Any]], known: set[str] | None = None) -> Shown:
    shown = Shown.of(words_of_read("account", "completed", records, known or set()))
    assert shown is not None
    return shown


@pytest.mark.parametrize("output", [{"a": 1.0, "b": 10**30, "c": "\ud83d"}, {"a": float("inf")}])
def test_an_answer_is_told_exactly_and_whole(output: Any) -> None:
    [shown] = told([record("job-1", output)]).records
    job = read_record(shown)
    assert job is not None
    assert says_all(job)
    assert job.result is not None
    assert repr(job.result.structured_output) == repr(output)


def test_prompts_are_not_told() -> None:
    assert "secret" not in words_of_read("account", "completed", [record("job-1")], set())


@pytest.mark.parametrize("tags", [(), ("other:1",), (5, None)])
def test_of_other_applications_jobs_only_the_id_is_told(tags: Any) -> None:
    assert told([record("job-1", tags=tags)]).records == ({"job_id": "job-1", "state": "completed"},)


def test_what_earlier_reads_showed_is_told_again_but_not_whole() -> None:
    shown = told([record("job-2"), record("job-1")], known={"job-1"})
    assert ["result" in each for each in shown.records] == [True, False]
    assert shown.ids == {"job-1", "job-2"}


def test_too_much_is_told_without_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_MOST_CHARS", 1_000)
    shown = told([record(f"job-{number}", {"text": "long " * 100}) for number in range(5)])
    assert len(shown.ids) == 5
    assert not any("result" in each for each in shown.records)


def test_records_without_an_id_are_not_told() -> None:
    assert told([{}, {"job_id": 5}, record("job-1")]).ids == {"job-1"}


@pytest.mark.parametrize("text", ["", "junk", "[]", "{}", json.dumps({"account": 5, "state": "a", "records": []})])
def test_words_that_make_no_sense_are_none(text: str) -> None:
    assert Shown.of(text) is None


def test_an_end_is_told_like_a_new_record() -> None:
    shown = record_of(words_of_end(record("job-1")))
    assert shown is not None
    assert "input" not in shown
    job = read_record(shown)
    assert job is not None
    assert says_all(job)
    assert record_of(words_of_end(record("job-1", tags=()))) == {"job_id": "job-1", "state": "completed"}


@pytest.mark.parametrize("text", ["", "junk", "[]", "5", "{}", '{"job_id": 5}'])
def test_words_of_an_end_that_make_no_sense_are_none(text: str) -> None:
    assert record_of(text) is None
