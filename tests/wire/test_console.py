"""The console's files and its three small calls, over a real socket."""

import json
import re
from typing import Any

import httpx
import pytest

from proxy.console.routes import FOLDER
from tests.conftest import Deployment

MESSAGES = [{"role": "user", "content": "A word nobody else says: quokka."}]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]
FILES = sorted(str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*.*") if file.is_file())


def plan(deployment: Deployment, **fields: Any) -> httpx.Response:
    return deployment.http.post("/console/api/plan", json={"model": "claude-4-5-haiku", "messages": MESSAGES, **fields})


def job_of(deployment: Deployment) -> str:
    return deployment.chat({"messages": MESSAGES}).headers["x-narrative-job-id"]


@pytest.mark.parametrize("path", ["", *FILES])
def test_every_file_is_served_without_a_key_under_the_strict_policy(deployment: Deployment, path: str) -> None:
    answer = httpx.get(f"{deployment.url}/console/{path}")
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("path", "kind"),
    [("", "text/html"), ("js/app.js", "text/javascript"), ("css/base.css", "text/css"), ("icon.svg", "image/svg+xml")],
)
def test_every_file_says_what_it_is_whatever_the_machine_knows(deployment: Deployment, path: str, kind: str) -> None:
    assert httpx.get(f"{deployment.url}/console/{path}").headers["content-type"].startswith(kind)


def test_the_bare_path_leads_to_the_page_also_behind_a_prefix(deployment: Deployment) -> None:
    answer = httpx.get(f"{deployment.url}/console")
    assert answer.status_code == 307
    assert answer.headers["location"] == "console/"


@pytest.mark.parametrize("path", ["nothing.js", "../services.py", "%2e%2e/services.py", "js/../../services.py", "js"])
def test_nothing_else_is_served(deployment: Deployment, path: str) -> None:
    request = httpx.Request("GET", f"{deployment.url}/console/")
    request.url = request.url.copy_with(raw_path=f"/console/{path}".encode())
    with httpx.Client() as client:
        answer = client.send(request)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"


def test_a_file_that_is_known_is_not_sent_again(deployment: Deployment) -> None:
    first = httpx.get(f"{deployment.url}/console/js/app.js")
    again = httpx.get(f"{deployment.url}/console/js/app.js", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304


def test_the_console_can_be_off(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_CONSOLE__ENABLED": "false"})
    for path in ("/console", "/console/", "/console/api/recent"):
        assert deployment.http.get(path).status_code == 404
    assert deployment.chat({"messages": MESSAGES}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "plan"), ("GET", "recent"), ("GET", "jobs/5a4db0c5-0000-4000-8000-00005a4db0c5")]
)
def test_its_calls_ask_for_the_same_key_as_chat_does(deployment: Deployment, method: str, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}):
        answer = httpx.request(method, f"{deployment.url}/console/api/{path}", headers=headers, json={})
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"


def test_the_plan_is_what_is_submitted_and_submits_nothing(deployment: Deployment) -> None:
    before = deployment.jobs_submitted()
    fields = {"tools": TOOLS, "reasoning_effort": "low", "temperature": 1.5, "user": "me", "seed": 1}
    planned = plan(deployment, **fields).json()
    assert deployment.jobs_submitted() == before
    job_id = deployment.chat({"messages": MESSAGES, **fields}).headers["x-narrative-job-id"]
    submitted = dict(deployment.sandbox.state.store.get(job_id).body)
    assert planned["run"]["tags"][1:] == list(submitted.pop("tags"))[1:]
    assert {name: value for name, value in planned["run"].items() if name != "tags"} == submitted
    assert (planned["jobs"], planned["ignored"]) == (1, ["seed"])
    assert planned["adjusted"] == ["temperature: lowered to 1"]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_the_plan_of_other_apis_is_what_is_submitted(deployment: Deployment, path: str) -> None:
    said = {"max_tokens": 500, "messages": MESSAGES} if path == "/v1/messages" else {"input": MESSAGES, "store": False}
    body = {"model": "claude-4-5-haiku", "temperature": 0.5, "top_k": 3, **said}
    planned = deployment.http.post("/console/api/plan", params={"path": path}, json=body).json()
    job_id = deployment.http.post(path, json=body).headers["x-narrative-job-id"]
    submitted = dict(deployment.sandbox.state.store.get(job_id).body)
    assert {**planned["run"], "tags": []} == {**submitted, "tags": []}
    refused = deployment.http.post("/console/api/plan", params={"path": path}, json={**body, "tools": [{"type": 1}]})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith("tools[0]")


def test_a_plan_for_another_path_is_refused(deployment: Deployment) -> None:
    refused = deployment.http.post("/console/api/plan", params={"path": "/v1/models"}, json={})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "path")


def test_a_plan_for_a_named_endpoint_is_refused(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()  # one of its own: others count its models
    settings = {"service": "narrative", "service_settings": {"model_id": "claude-4-5-haiku"}}
    assert deployment.http.put("/_inference/completion/mine", json=settings).is_success
    refused = plan(deployment, model="mine")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


def test_a_plan_is_refused_as_the_request_would_be(deployment: Deployment) -> None:
    assert plan(deployment, model="gpt-9").json()["error"]["code"] == "model_not_found"
    refused = plan(deployment, messages=[{"role": "robot", "content": "hi"}])
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith("messages[0]")


def test_a_plan_has_the_bounds_of_a_request(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_SERVER__MAX_BODY_BYTES": "2000"})
    assert plan(deployment, user="x" * 2000).status_code == 413


def test_a_jobs_times_are_shown_and_nothing_of_its_content(deployment: Deployment) -> None:
    job_id = job_of(deployment)
    shown = deployment.http.get(f"/console/api/jobs/{job_id}").json()
    assert shown.keys() == {"id", "state", "created_at", "ended_at"}
    assert (shown["id"], shown["state"]) == (job_id, "completed")
    assert shown["created_at"] <= shown["ended_at"]


def test_a_job_that_was_not_submitted_here_is_not_looked_up(deployment: Deployment) -> None:
    calls = deployment.sandbox.state.store.calls["get_job"]
    answer = deployment.http.get("/console/api/jobs/5a4db0c5-0000-4000-8000-00005a4db0c5")
    assert answer.status_code == 400
    assert deployment.sandbox.state.store.calls["get_job"] == calls


def test_recent_requests_tell_route_model_status_and_time_and_no_content(deployment: Deployment) -> None:
    deployment.chat({"messages": MESSAGES})
    deployment.http.post("/v1/quokka")
    answer = deployment.http.get("/console/api/recent")
    unknown, chat, *_ = answer.json()["requests"]
    assert (chat["method"], chat["route"], chat["status"]) == ("POST", "/v1/chat/completions", 200)
    assert chat["model"] == "anthropic.claude-haiku-4.5"
    assert chat["ms"] > 0
    assert (unknown["route"], unknown["status"]) == ("unknown", 404)
    assert not re.search(r"quokka|test-key|[0-9a-f]{64}", answer.text)
    assert answer.headers["cache-control"] == "no-store"


def test_callers_with_tokens_of_their_own_see_neither_requests_nor_jobs_of_others(make_deployment: Any) -> None:
    deployment = make_deployment({"NARRATIVE_API_KEY": "", "PROXY_API_KEYS": ""})
    mine, yours = ({"authorization": f"Bearer token-{name}"} for name in ("mine", "yours"))
    job_id = deployment.chat({"messages": MESSAGES}, headers=mine).headers["x-narrative-job-id"]
    path = f"/console/api/jobs/{job_id}"
    assert deployment.http.get(path, headers=mine).json()["state"] == "completed"
    assert deployment.http.get(path, headers=yours).status_code == 400
    seen = [deployment.http.get("/console/api/recent", headers=headers).json() for headers in (mine, yours)]
    assert [len(json_["requests"]) for json_ in seen] == [1, 0]
    assert not any(json_["everyone"] for json_ in seen)


def test_operators_see_everyones_requests(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_API_KEYS": "one, two"})
    assert deployment.chat({"messages": MESSAGES}, headers={"authorization": "Bearer one"}).status_code == 200
    seen = deployment.http.get("/console/api/recent", headers={"authorization": "Bearer two"}).json()
    assert seen["everyone"]
    assert [entry["status"] for entry in seen["requests"]] == [200]


def test_the_metrics_that_the_charts_read_are_there(deployment: Deployment) -> None:
    deployment.chat({"messages": MESSAGES})
    names = set(re.findall(r"^(\w+)", deployment.http.get("/metrics").text, re.MULTILINE))
    script = (FOLDER / "js/metrics.js").read_text("utf-8")
    wanted = set(re.findall(r'"(proxy_\w+)"', script))
    assert len(wanted) >= 6
    assert wanted <= names, json.dumps(sorted(wanted - names))
