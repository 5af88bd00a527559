"""What is counted at /metrics, and that the documentation knows it."""

import re
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Deployment
from tests.scripts import script

HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}
MODEL = "anthropic.claude-haiku-4.5"
DOCS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")


def values(deployment: Deployment) -> dict[tuple[str, ...], float]:
    """(name, label values…) → value."""
    text = httpx.get(f"{deployment.url}/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value for sample in samples}


def test_metrics_need_no_key(deployment: Deployment) -> None:
    answer = httpx.get(f"{deployment.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")


def test_requests_are_counted_by_route_model_and_status(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    deployment.chat(HELLO)
    deployment.chat({**HELLO, "stream": True})
    deployment.chat({**HELLO, "model": "nonsense"})
    deployment.http.get(f"/no/such/{'x' * 30}")
    deployment.http.get("/v1/models/nonsense")
    found = values(deployment)
    assert found["proxy_requests_total", MODEL, "/chat/completions", "200"] == 2
    assert found["proxy_requests_total", "none", "/chat/completions", "404"] == 1
    assert found["proxy_requests_total", "none", "other", "404"] == 1
    assert found["proxy_request_seconds_count", "/chat/completions"] == 3
    assert not [key for key in found if "nonsense" in str(key) or "xxx" in str(key)], (
        "no label says what a client wrote"
    )


def test_the_engine_is_counted(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    deployment.chat({**HELLO, "n": 2})
    deployment.chat({"messages": [{"role": "user", "content": script(fail="no")}]})
    found = values(deployment)
    assert found["proxy_jobs_submitted_total", MODEL] == 3
    assert found["proxy_jobs_total", MODEL, "completed"] == 2
    assert found["proxy_jobs_total", MODEL, "failed"] == 1
    assert found["proxy_upstream_calls_total", "submit", "200"] == 3
    assert sum(value for key, value in found.items() if key[0] == "proxy_ends_noticed_total") == 3
    assert sum(value for key, value in found.items() if key[0] == "proxy_end_notice_seconds_count") == 3
    assert found["proxy_stage_seconds_count", "queue"] == 3
    assert found["proxy_stage_seconds_count", "narrative"] == 2
    assert found["proxy_stage_seconds_count", "proxy"] == 1, "one request was answered"
    assert found["proxy_jobs_in_flight",] == 0
    assert found["proxy_requests_in_flight",] == 0, "this one does not count itself"
    assert found["proxy_state_healthy",] == 1


def test_repeats_and_repairs_are_counted(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    for temperature in (None, None, 0.5):
        deployment.chat({**HELLO, "temperature": temperature}, headers={"idempotency-key": "k"})
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}}
    calls = [{"calls": [{"name": "f", "arguments": arguments}]} for arguments in ({"b": 1}, {"a": "1"})]
    ask = script(key="once", attempts=calls)
    deployment.chat({"messages": [{"role": "user", "content": ask}], "tools": [{"type": "function", "function": tool}]})
    found = values(deployment)
    assert found["proxy_adoptions_total", "replayed"] == 1
    assert found["proxy_adoptions_total", "mismatch"] == 1
    assert found["proxy_further_jobs_total", "repair"] == 1


def test_each_app_counts_for_itself(make_deployment: Any) -> None:
    one, other = make_deployment(), make_deployment()
    one.chat(HELLO)
    assert ("proxy_jobs_submitted_total", MODEL) in values(one)
    assert ("proxy_jobs_submitted_total", MODEL) not in values(other)


def test_the_documentation_names_every_metric_and_only_those(deployment: Deployment) -> None:
    text = httpx.get(f"{deployment.url}/metrics").text
    served = set(re.findall(r"^# TYPE (proxy_\w+)", text, re.MULTILINE)) - set(re.findall(r"(proxy_\w+_created)", text))
    documented = set(re.findall(r"^\| `(proxy_\w+)`", DOCS, re.MULTILINE))
    assert served == documented
