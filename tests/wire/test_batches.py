"""Batches over the wire. Source: contract `openai-batches.md`, Input lines to Result lines."""

import json
from typing import Any

import httpx
import pytest
from openai.types import Batch

from proxy.sandbox import Fault
from tests.batching import CHAT, chat, ended, line, rows, start, upload
from tests.conftest import Deployment
from tests.scripts import script
from tests.waiting import until, until_sync

ENDLESS = chat(script(state="running"))


def test_a_batch_answers_every_line(deployment: Deployment) -> None:
    before = deployment.jobs_submitted()
    lines = [line(f"c{number}", chat(f"Hello {number}")) for number in range(20)]
    batch = start(deployment.http, lines, metadata={"run": "7"})
    assert (batch["object"], batch["endpoint"], batch["completion_window"]) == ("batch", CHAT, "24h")
    assert (batch["errors"], batch["output_file_id"], batch["metadata"]) == (None, None, {"run": "7"})
    assert batch["expires_at"] - batch["created_at"] in (86_400, 86_401)
    batch = ended(deployment.http, batch["id"])
    Batch.model_validate(batch, strict=True)
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
    assert batch["error_file_id"] is None
    assert batch["created_at"] <= batch["in_progress_at"] <= batch["finalizing_at"] <= batch["completed_at"]
    answers = rows(deployment.http, batch["output_file_id"])
    assert answers.keys() == {f"c{number}" for number in range(20)}
    row = answers["c3"]
    assert row.keys() == {"id", "custom_id", "response", "error"}
    assert row["id"].startswith("batch_req_")
    assert row["error"] is None
    assert row["response"]["status_code"] == 200
    assert row["response"]["request_id"].startswith("req_")
    assert row["response"]["body"]["object"] == "chat.completion"
    usage = [answer["response"]["body"]["usage"] for answer in answers.values()]
    assert batch["usage"]["input_tokens"] == sum(each["prompt_tokens"] for each in usage)
    assert batch["usage"]["total_tokens"] == sum(each["total_tokens"] for each in usage)
    assert deployment.jobs_submitted() == before + 20
    file = deployment.http.get(f"/v1/files/{batch['output_file_id']}").json()
    assert (file["purpose"], file["expires_at"] - file["created_at"]) == ("batch_output", 86_400)


def test_a_line_that_fails_is_a_row_of_the_error_file(deployment: Deployment) -> None:
    before = deployment.jobs_submitted()
    lines = [
        line("good"),
        line("job", chat(script(fail="the model fell over"))),
        line("wrong", {"model": "claude-4-5-haiku", "messages": 7}),
        line("unknown", chat(model="nobody")),
        line("streamed", chat(stream=True)),
    ]
    batch = ended(deployment.http, start(deployment.http, lines)["id"])
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 5, "completed": 1, "failed": 4}
    assert rows(deployment.http, batch["output_file_id"]).keys() == {"good"}
    failed = rows(deployment.http, batch["error_file_id"])
    found = {id_: (row["response"]["status_code"], row["response"]["body"]["error"]) for id_, row in failed.items()}
    assert {id_: status for id_, (status, _) in found.items()} == {
        "job": 424,
        "wrong": 400,
        "unknown": 404,
        "streamed": 400,
    }
    assert found["job"][1]["code"] == "narrative_job_failed"
    assert found["wrong"][1]["param"] == "messages"
    assert found["unknown"][1]["code"] == "model_not_found"
    assert found["streamed"][1]["param"] == "stream"
    assert all(row["error"] is None for row in failed.values())
    assert deployment.jobs_submitted() == before + 2


def test_a_batch_of_failures_is_completed_without_output(deployment: Deployment) -> None:
    batch = ended(deployment.http, start(deployment.http, [line("a", chat(model="nobody"))])["id"])
    assert (batch["status"], batch["output_file_id"]) == ("completed", None)
    assert rows(deployment.http, batch["error_file_id"]).keys() == {"a"}


def test_a_batch_of_responses_goes_on_from_stored_ones(deployment: Deployment) -> None:
    url = "/v1/responses"
    first = deployment.http.post(url, json={"model": "claude-4-5-haiku", "input": "My name is Ada."}).json()
    asks = {"model": "claude-4-5-haiku", "input": "What is my name?"}
    lines = [
        line("new", asks, url),
        line("next", {**asks, "previous_response_id": first["id"]}, url),
        line("gone", {**asks, "previous_response_id": "resp_none"}, url),
        line("background", {**asks, "background": True}, url),
        line("streamed", {**asks, "stream": True}, url),
    ]
    batch = ended(deployment.http, start(deployment.http, lines, url)["id"])
    answers = rows(deployment.http, batch["output_file_id"])
    assert answers.keys() == {"new", "next"}
    body = answers["next"]["response"]["body"]
    assert (body["object"], body["status"], body["previous_response_id"]) == ("response", "completed", first["id"])
    stored = deployment.http.get(f"{url}/{body['id']}").json()
    assert stored["output"] == body["output"]
    params = {
        id_: row["response"]["body"]["error"]["param"]
        for id_, row in rows(deployment.http, batch["error_file_id"]).items()
    }
    assert params == {"gone": "previous_response_id", "background": "background", "streamed": "stream"}


async def test_a_batch_whose_lines_are_right_is_in_progress(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    id_ = start(deployment.http, [line("a", ENDLESS)])["id"]
    await until(deployment.jobs_submitted)
    batch = deployment.http.get(f"/v1/batches/{id_}").json()
    assert (batch["status"], batch["request_counts"]["total"]) == ("in_progress", 1)
    assert batch["in_progress_at"] >= batch["created_at"]


def test_a_batch_stores_responses_where_nobody_asked_for_one_before(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    asked = line("a", {"model": "claude-4-5-haiku", "input": "Hello!"}, "/v1/responses")
    batch = ended(deployment.http, start(deployment.http, [asked], "/v1/responses")["id"])
    response = rows(deployment.http, batch["output_file_id"])["a"]["response"]["body"]
    assert response["store"] is True
    assert deployment.http.get(f"/v1/responses/{response['id']}").json() == response


# ---------------------------------------------------------------- files that are wrong


def test_all_lines_at_fault_are_named_and_no_job_is_made(deployment: Deployment) -> None:
    before = deployment.jobs_submitted()
    lines = [
        line("a"),
        "",
        "no json",
        "[1]",
        line("a"),
        line("b", url="/v1/responses"),
        line(""),
        line("x" * 513),
        json.dumps({"method": "POST", "url": CHAT, "body": {}}),
        line("c", method="GET"),
        json.dumps({"custom_id": "d", "method": "POST", "url": CHAT, "body": []}),
    ]
    batch = ended(deployment.http, start(deployment.http, lines)["id"])
    Batch.model_validate(batch, strict=True)
    assert (batch["status"], batch["errors"]["object"]) == ("failed", "list")
    assert batch["failed_at"] >= batch["created_at"]
    found = [(error["line"], error["code"], error["param"]) for error in batch["errors"]["data"]]
    assert found == [
        (3, "invalid_json_line", None),
        (4, "invalid_json_line", None),
        (5, "duplicate_custom_id", "custom_id"),
        (6, "url_mismatch", "url"),
        (7, "invalid_request", "custom_id"),
        (8, "invalid_request", "custom_id"),
        (9, "invalid_request", "custom_id"),
        (10, "invalid_request", "method"),
        (11, "invalid_request", "body"),
    ]
    assert all(error["message"] for error in batch["errors"]["data"])
    assert deployment.jobs_submitted() == before


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "empty_file"), (b"\n \n\n", "empty_file"), (b"\xff\xfe{}\n", "invalid_json_line")],
    ids=["empty", "blank", "other encoding"],
)
def test_files_without_requests(deployment: Deployment, content: bytes, code: str) -> None:
    batch = ended(deployment.http, start(deployment.http, content)["id"])
    assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", code)


def test_a_file_of_too_many_or_too_long_lines(make_deployment: Any) -> None:
    limits = {"PROXY_BATCHES__MAX_LINES": "3", "PROXY_SERVER__MAX_BODY_BYTES": "300000"}
    http = make_deployment(limits).http
    batch = ended(http, start(http, [line(str(number)) for number in range(4)])["id"])
    assert [error["code"] for error in batch["errors"]["data"]] == ["too_many_tasks"]
    batch = ended(http, start(http, [line("a"), "x" * 700_000, line("a")])["id"])
    found = [(error["code"], error["line"]) for error in batch["errors"]["data"]]
    assert found == [("invalid_request", 2), ("duplicate_custom_id", 3)]


def test_at_most_a_hundred_errors_are_listed(deployment: Deployment) -> None:
    batch = ended(deployment.http, start(deployment.http, ["{"] * 500)["id"])
    assert len(batch["errors"]["data"]) == 100


def test_lines_end_at_newlines_only(deployment: Deployment) -> None:
    separators = "a\u2028b\u2029c\u0085d"
    raw = json.dumps({"custom_id": separators, "method": "POST", "url": CHAT, "body": chat()}, ensure_ascii=False)
    content = b"\xef\xbb\xbf" + raw.encode() + b"\r\n\n" + line("z").encode()
    batch = ended(deployment.http, start(deployment.http, content)["id"])
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert rows(deployment.http, batch["output_file_id"]).keys() == {separators, "z"}


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"input_file_id": ""}, "input_file_id"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after[seconds]"),
    ],
)
def test_a_request_that_is_wrong_is_refused_at_once(deployment: Deployment, change: Any, param: str) -> None:
    file = upload(deployment.http, [line("a")]).json()
    body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h", **change}
    answer = deployment.http.post("/v1/batches", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_results_are_no_input(deployment: Deployment) -> None:
    output = ended(deployment.http, start(deployment.http, [line("a")])["id"])["output_file_id"]
    body = {"input_file_id": output, "endpoint": CHAT, "completion_window": "24h"}
    answer = deployment.http.post("/v1/batches", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input_file_id")


def test_a_client_names_how_long_results_are_kept(deployment: Deployment) -> None:
    kept = {"anchor": "created_at", "seconds": 7200}
    batch = ended(deployment.http, start(deployment.http, [line("a")], output_expires_after=kept)["id"])
    file = deployment.http.get(f"/v1/files/{batch['output_file_id']}").json()
    assert file["expires_at"] - file["created_at"] in (7200, 7201)


def test_an_idempotency_key_makes_one_batch(deployment: Deployment) -> None:
    before, file = deployment.jobs_submitted(), upload(deployment.http, [line("a")]).json()
    body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    key = {"idempotency-key": file["id"]}
    made = [deployment.http.post("/v1/batches", json=body, headers=key).json()["id"] for _ in range(3)]
    assert len(set(made)) == 1
    other = deployment.http.post("/v1/batches", json={**body, "metadata": {"a": "b"}}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    retry = {"x-stainless-retry-count": "1"}
    without = deployment.http.post("/v1/batches", json=body).json()["id"]
    again = deployment.http.post("/v1/batches", json=body, headers=retry).json()["id"]
    assert without == again != made[0]
    for id_ in (made[0], again):
        ended(deployment.http, id_)
    assert deployment.jobs_submitted() == before + 2


def test_batches_are_listed_newest_first(make_deployment: Any) -> None:
    http = make_deployment().http
    ids = [start(http, [line("a")])["id"] for _ in range(3)]
    assert [batch["id"] for batch in http.get("/v1/batches").json()["data"]] == ids[::-1]
    page = http.get("/v1/batches", params={"limit": 1, "after": ids[2]}).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[1], ids[1], True)
    for params, param in (({"limit": "101"}, "limit"), ({"after": "batch_none"}, "after")):
        answer = http.get("/v1/batches", params=params)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    for id_ in ids:
        ended(http, id_)


def test_a_key_has_a_bounded_number_of_open_batches(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_BATCHES__MAX_KEY_BATCHES": "1"})
    batch = start(deployment.http, [line("a", ENDLESS)])
    body = {"input_file_id": batch["input_file_id"], "endpoint": CHAT, "completion_window": "24h"}
    answer = deployment.http.post("/v1/batches", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_batches")


# ---------------------------------------------------------------- cancellation, expiry, pace


def in_flight(deployment: Deployment, jobs: int) -> None:
    until_sync(lambda: deployment.in_flight() >= jobs)


def test_a_cancelled_batch_awaits_the_jobs_that_run(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_BATCHES__MAX_IN_FLIGHT": "8"})
    batch = start(deployment.http, [line(f"c{number}", chat(script(delay=1.0))) for number in range(40)])
    in_flight(deployment, 4)
    answer = deployment.http.post(f"/v1/batches/{batch['id']}/cancel").json()
    assert (answer["status"], answer["cancelling_at"] is None) == ("cancelling", False)
    again = deployment.http.post(f"/v1/batches/{batch['id']}/cancel")
    assert again.status_code in (200, 409)  # it may have ended since
    batch = ended(deployment.http, batch["id"])
    assert (batch["status"], batch["cancelled_at"] is None) == ("cancelled", False)
    answers = rows(deployment.http, batch["output_file_id"])
    assert 4 <= len(answers) == deployment.jobs_submitted() < 40
    assert batch["request_counts"] == {"total": 40, "completed": len(answers), "failed": 0}
    assert batch["error_file_id"] is None
    late = deployment.http.post(f"/v1/batches/{batch['id']}/cancel")
    assert (late.status_code, late.json()["error"]["param"]) == (409, "batch_id")
    assert deployment.http.post("/v1/batches/batch_none/cancel").status_code == 404


def test_what_was_not_answered_in_time_expires(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_BATCHES__WINDOW_S": "3"})
    batch = start(deployment.http, [line("quick"), line("slow", ENDLESS)])
    batch = ended(deployment.http, batch["id"])
    assert (batch["status"], batch["expired_at"] is None) == ("expired", False)
    assert rows(deployment.http, batch["output_file_id"]).keys() == {"quick"}
    row = rows(deployment.http, batch["error_file_id"])["slow"]
    assert row["response"] is None
    assert row["error"]["code"] == "batch_expired"


def test_refused_submissions_are_made_again(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    faults = deployment.sandbox.state.faults
    faults.add(Fault(kind="status", operation="run", status=429, times=40, headers={"retry-after": "0"}))
    batch = ended(deployment.http, start(deployment.http, [line(f"c{n}") for n in range(10)])["id"])
    assert batch["request_counts"] == {"total": 10, "completed": 10, "failed": 0}
    assert deployment.jobs_submitted() == 10


def test_limits_of_keys_hold(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_ACCESS__JOBS_IN_FLIGHT": "2", "PROXY_ACCESS__WAIT_S": "0"})
    most = 0
    batch = start(deployment.http, [line(f"c{n}", chat(script(delay=0.1))) for n in range(6)])
    while deployment.http.get(f"/v1/batches/{batch['id']}").json()["status"] not in ("completed", "failed"):
        most = max(most, deployment.in_flight())
    assert most <= 2
    assert ended(deployment.http, batch["id"])["request_counts"]["completed"] == 6


def test_nothing_begins_while_another_submission_waits(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_JOBS__MAX_IN_FLIGHT": "1", "PROXY_JOBS__PLACE_WAIT_S": "30"})
    hold = {"json": chat(script(delay=1.0)), "headers": {"authorization": "Bearer test-key"}, "timeout": 30}
    with httpx.Client(base_url=deployment.url) as http:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(2) as threads:
            interactive = [threads.submit(http.post, CHAT, **hold) for _ in range(2)]  # type: ignore[arg-type]
            in_flight(deployment, 1)
            batch = start(deployment.http, [line("a", chat("the batch"))])
            assert [answer.result().status_code for answer in interactive] == [200, 200]
    assert ended(deployment.http, batch["id"])["status"] == "completed"
    assert "the batch" in json.dumps(deployment.submissions()[-1])


def test_a_batch_whose_key_is_revoked_is_cancelled(make_deployment: Any) -> None:
    from tests.processes import run

    deployment: Deployment = make_deployment({"PROXY_BATCHES__MAX_IN_FLIGHT": "1"})
    folder = {"PROXY_ACCESS__FOLDER": deployment.environ["PROXY_ACCESS__FOLDER"]}
    key = run("keys", "create", "--name", "evals", **folder).stdout.strip()
    with httpx.Client(base_url=deployment.url, headers={"authorization": f"Bearer {key}"}, timeout=30) as http:
        start(http, [line(f"c{number}", chat(script(delay=0.5))) for number in range(1_000)])
    run("keys", "revoke", "evals", **folder)
    sample = 'batches_ended_total{status="cancelled"} 1.0'
    until_sync(lambda: sample in httpx.get(f"{deployment.url}/metrics").text)
    assert deployment.jobs_submitted() < 100


def test_metrics_count_lines_and_batches(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    ended(deployment.http, start(deployment.http, [line("a"), line("b", chat(model="nobody"))])["id"])
    metrics = deployment.http.get("/metrics").text
    for sample in (
        'proxy_batch_lines_total{result="answer"} 1.0',
        'proxy_batch_lines_total{result="error"} 1.0',
        'proxy_batches_ended_total{status="completed"} 1.0',
        "proxy_batches_running",
    ):
        assert sample in metrics
