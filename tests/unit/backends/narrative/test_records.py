"""Records are read as far as they make sense."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.narrative.types import Job, JobRecord, parse_json, parse_page, parse_record

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FIELDS = (*JobRecord.__struct_fields__, "unknown")


def job(**fields: Any) -> Job:
    found = parse_record(json.dumps({"job_id": "job-1", "state": "completed", **fields}).encode()).job()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 3.6, "completion_tokens": 2.4}, (4, 2)),
        ({"prompt_tokens": None, "completion_tokens": "7"}, (0, 7)),
        ({"prompt_tokens": -1, "completion_tokens": "many"}, (0, 0)),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, (0, 0)),
        ({}, (0, 0)),
        (None, (0, 0)),
        ("none", (0, 0)),
    ],
)
def test_usage_may_be_fractional_missing_or_nonsense(usage: Any, tokens: tuple[int, int]) -> None:
    result = job(result={"structured_output": {"text": "hi"}, "usage": usage}).result
    assert result is not None
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == tokens


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "soon", 1e300, {}, [], ""])
def test_a_time_that_cannot_be_read_is_none(time: Any) -> None:
    found = job(created_at=time, ended_at="2026-01-02T03:04:05")
    assert found.created_at is None
    assert found.ended_at is not None
    assert found.ended_at.isoformat() == "2026-01-02T03:04:05+00:00"


@pytest.mark.parametrize(
    ("state", "read"),
    [
        ("COMPLETED", "completed"),
        ("Failed", "failed"),
        ("canceled", "cancelled"),
        ("CANCELED", "cancelled"),
        (" cancelled ", "cancelled"),
        ("a state of tomorrow", "a state of tomorrow"),
    ],
)
def test_states_are_read_in_any_letter_case_and_spelling(state: str, read: str) -> None:
    found = job(state=state)
    assert found.state == read
    assert found.ended is (read != "a state of tomorrow")
    assert parse_record(json.dumps({"job_id": "j", "state": state}).encode()).ended is found.ended


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"job_id": None},
        {"job_id": 5},
        {"job_id": "job-1", "state": 5},
        {"job_id": "job-1", "result": "text"},
        {"job_id": "../secret"},
        {"job_id": ""},
    ],
)
def test_what_cannot_be_read_as_a_job_is_none(record: dict[str, Any]) -> None:
    assert parse_record(json.dumps(record).encode()).job() is None


def test_either_spelling_of_an_id_is_read_and_tags_come_from_the_input() -> None:
    found = parse_record(b'{"id": "a", "input": {"messages": [1], "tags": ["rid:1", 5, null]}}')
    assert found.name == "a"
    assert found.tags == ("rid:1",)
    read = found.job()
    assert read is not None
    assert read.tags == ("rid:1",)


@pytest.mark.parametrize("job_input", [None, 5, "text", [], {}, {"tags": 5}, {"tags": {"a": 1}}])
def test_an_input_without_tags_has_none(job_input: Any) -> None:
    assert parse_record(json.dumps({"job_id": "a", "input": job_input}).encode()).tags == ()


@pytest.mark.parametrize(
    ("failures", "read"),
    [
        (None, ()),
        ("no", ("no",)),
        (["no", {"message": "never"}, {"error": "a", "cause": "b"}], ("no", "never", "a: b")),
        ({"message": "alone"}, ("alone",)),
        ([{"other": 1}], ("{'other': 1}",)),
    ],
)
def test_failures_come_in_many_forms(failures: Any, read: tuple[str, ...]) -> None:
    assert job(state="failed", failures=failures).failures == read


@pytest.mark.parametrize(
    ("record", "complete"),
    [
        ({"state": "completed"}, False),
        ({"state": "completed", "result": {"usage": {"total_tokens": 1}}}, False),
        ({"state": "completed", "result": {"structured_output": {}}}, True),
        ({"state": "failed"}, False),
        ({"state": "failed", "failures": ["no"]}, True),
        ({"state": "canceled"}, True),
    ],
)
def test_a_record_without_what_a_caller_needs_is_incomplete(record: dict[str, Any], complete: bool) -> None:
    assert job(**record).complete is complete


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_no_record_raises_and_both_ways_of_reading_agree(fields: dict[str, Any]) -> None:
    fast = parse_record(json.dumps(fields).encode())
    slow = parse_record(json.dumps({"broken": float("nan"), **fields}).encode())
    assert (fast.name, fast.ended, fast.tags) == (slow.name, slow.ended, slow.tags)
    assert repr(fast.job()) == repr(slow.job())


@given(st.binary(max_size=100))
def test_bytes_that_are_no_record_are_a_value_error(body: bytes) -> None:
    try:
        parse_record(body)
        parse_page(body)
    except ValueError:
        pass


@pytest.mark.parametrize("body", [b"", b"{", b"5", b"[]", b'{"records": 5}', b'{"records": {}}', b"{}"])
def test_what_is_no_page_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_page(body)


def test_a_page_skips_what_is_no_object_and_keeps_what_cannot_be_read_as_a_job() -> None:
    page = parse_page(b'{"records": [null, 5, {"job_id": "a"}, {}], "total_records": 9}')
    assert [record.name for record in page.records] == ["a", None]
    assert [each.id for each in page.jobs()] == ["a"]
    assert page.total_records == 9


def test_json_that_msgspec_refuses_is_read_the_slow_way() -> None:
    body = b'{"records": [{"job_id": "a", "result": {"structured_output": {"x": "\\ud800", "y": NaN, "z": 1e999}}}]}'
    [read] = parse_page(body).jobs()
    assert read.result is not None
    assert repr(read.result.structured_output) == repr({"x": "\ufffd", "y": None, "z": None})


def test_large_inputs_are_not_decoded() -> None:
    record = parse_record(b'{"job_id": "a", "input": [1, 2]}')
    assert bytes(record.input) == b"[1, 2]"


def test_json_is_read_with_half_a_surrogate_pair_and_with_huge_integers() -> None:
    assert parse_json(b'{"a": "\\ud800x", "b": "\\ud83d\\ude00"}') == {"a": "\ufffdx", "b": "\U0001f600"}
    assert parse_json(b"123456789012345678901234567890") == 123456789012345678901234567890
    with pytest.raises(ValueError, match="Expecting"):
        parse_json(b"{")
