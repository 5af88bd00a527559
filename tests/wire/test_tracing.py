"""Traces as a receiver of OTLP gets them, and the header that tells the same stages."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.conftest import Deployment
from tests.messages_api import MODEL as CLAUDE
from tests.messages_api import directive
from tests.messages_client import asking, post
from tests.otlp import Receiver, receiver
from tests.scripts import script
from tests.waiting import until
from tests.wire.test_messages_native import Service

HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
MODEL = "anthropic.claude-haiku-4.5"
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with receiver() as running:
        yield running


def on(collector: Receiver, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **more}


def attributes(span: Any, prefix: str) -> dict[str, Any]:
    return {name: value for name, value in span.attributes.items() if name.startswith(prefix)}


async def test_a_request_and_its_job_are_spans_of_the_clients_trace(make_deployment: Any, collector: Receiver) -> None:
    deployment: Deployment = make_deployment(on(collector))
    body = {**HELLO, "temperature": 0.5, "max_tokens": 100, "stop": ["END"]}
    answer = deployment.chat(body, headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"})
    server, job = await collector.wait_for(2)
    assert (server.name, server.kind) == ("POST /v1/chat/completions", "SERVER")
    assert (server.trace, server.parent) == (TRACE, PARENT)
    assert (job.name, job.kind) == (f"chat {MODEL}", "CLIENT")
    assert (job.trace, job.parent) == (TRACE, server.span)
    assert server.started <= job.started <= job.ended <= server.ended
    assert attributes(server, "http") == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
    }  # fmt: skip
    assert server["proxy.request_id"] == "mine"
    assert server["proxy.key_id"]
    assert "test-key" not in str(collector.spans)
    usage = answer.json()["usage"]
    job_id = answer.headers["x-narrative-job-id"]
    found = attributes(job, "gen_ai")
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "narrative",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.stop_sequences": ["END"],
        "gen_ai.output.type": "text",
        "gen_ai.response.model": MODEL,
        "gen_ai.response.id": job_id,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
    }
    assert (job["narrative.job.id"], job["narrative.job.state"], job["narrative.job.taken_up"]) == (
        job_id,
        "completed",
        False,
    )
    assert job["narrative.job.noticed_by"] in ("poll", "list")
    assert job["narrative.job.run_ms"] >= 0
    assert server.resource["service.name"] == "narrative-chat-proxy"
    assert not server.links
    assert not server.failed


async def test_contents_are_sent_only_if_a_setting_says_so(make_deployment: Any, collector: Receiver) -> None:
    make_deployment(on(collector)).chat(HELLO)
    await collector.wait_for(2)
    assert "Hello" not in str(collector.spans)
    collector.spans.clear()
    answer = make_deployment(on(collector, PROXY_TRACING__CONTENTS="true")).chat(HELLO)
    _, job = await collector.wait_for(2)
    assert json.loads(job["gen_ai.input.messages"])[-1] == {
        "role": "user",
        "parts": [{"type": "text", "content": "Hello!"}],
    }
    (output,) = json.loads(job["gen_ai.output.messages"])
    assert (output["role"], output["finish_reason"]) == ("assistant", "stop")
    assert answer.json()["choices"][0]["message"]["content"] in output["parts"][0]["content"]


async def test_each_job_of_a_request_has_a_span(make_deployment: Any, collector: Receiver) -> None:
    deployment: Deployment = make_deployment(on(collector))
    answer = deployment.chat({**HELLO, "n": 3})
    server, *jobs = await collector.wait_for(4)
    assert {job["narrative.job.id"] for job in jobs} == set(answer.headers["x-narrative-job-id"].split(", "))
    assert {job.parent for job in jobs} == {server.span}


async def test_a_failed_job_and_a_refused_request(make_deployment: Any, collector: Receiver) -> None:
    deployment: Deployment = make_deployment(on(collector))
    deployment.chat({"messages": [{"role": "user", "content": script(fail="no")}]})
    server, job = await collector.wait_for(2)
    assert job.failed
    assert (job["error.type"], job["narrative.job.state"]) == ("narrative_job_failed", "failed")
    assert (server["http.response.status_code"], server.failed) == (424, False)
    collector.spans.clear()
    deployment.chat({**HELLO, "model": "nonsense"})
    deployment.http.get("/readyz")
    deployment.http.get("/no/such/page-of-a-long-name")
    refused, unrouted = await collector.wait_for(2)
    assert refused["http.response.status_code"] == 404
    assert (unrouted.name, unrouted["url.path"]) == ("GET", "/no/such/…")
    assert len(collector.spans) == 2, "probes are not traced"


async def leave(deployment: Deployment, body: dict[str, Any], headers: dict[str, str]) -> None:
    """Send a request, and close the connection once its job is in flight."""
    async with httpx.AsyncClient(base_url=deployment.url, headers={"authorization": "Bearer test-key"}) as client:
        call = asyncio.create_task(client.post("/v1/chat/completions", json=body, headers=headers))
        await until(deployment.in_flight)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await until(lambda: not deployment.in_flight())


async def test_a_retry_that_takes_up_a_job_links_to_its_span(make_deployment: Any, collector: Receiver) -> None:
    deployment: Deployment = make_deployment(on(collector), running_s=1.0)
    calls = [{"name": "weather", "arguments": {"city": "Oslo"}}]
    body = {"messages": [{"role": "user", "content": script(calls=calls)}], "tools": [TOOL], "stream": True}
    body["model"] = "claude-4-5-haiku"
    await leave(deployment, body, {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    left, lost = await collector.wait_for(2)
    assert (lost["error.type"], lost.failed) == ("abandoned", True)
    assert (left.trace, lost.trace, lost.parent) == (TRACE, TRACE, left.span)
    answer = deployment.chat(body, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert "Oslo" in answer.text
    assert deployment.jobs_submitted() == 1
    _, _, server, job = await collector.wait_for(4)
    assert server.links == job.links == [(TRACE, lost.span)]
    assert job["narrative.job.id"] == lost["narrative.job.id"]
    assert (job["narrative.job.taken_up"], job["narrative.job.state"]) == (True, "completed")
    assert job["gen_ai.response.finish_reasons"] == ["tool_calls"]
    assert server["proxy.repeat"] == "adopted"


async def test_a_replay_links_to_the_request_that_it_repeats(make_deployment: Any, collector: Receiver) -> None:
    deployment: Deployment = make_deployment(on(collector))
    for _ in range(2):
        deployment.chat(HELLO, headers={"idempotency-key": "k"})
    first, _, second = await collector.wait_for(3)
    assert second.links == [(first.trace, first.span)]
    assert second["proxy.repeat"] == "replayed"


async def test_a_call_of_anthropics_api_is_a_span_too(collector: Receiver) -> None:
    wholly = [({"text": "Hi."}, False), ({"text": "Hi."}, True)]
    failing = [({"status": 429, "type": "rate_limit_error"}, False), ({"text": "Hello there", "broken": True}, True)]
    with ExitStack() as stack:
        service = Service(stack, **on(collector))  # which makes a call to verify the endpoint
        for what, stream in (*wholly, *failing):
            post(service.url, asking(directive(**what), model="claude", max_tokens=50, stream=stream))
    _, *calls = sorted((span for span in collector.spans if span.kind == "CLIENT"), key=lambda span: span.started)
    assert {(call.name, call["gen_ai.provider.name"]) for call in calls} == {(f"chat {CLAUDE}", "anthropic")}
    assert [call["error.type"] for call in calls] == [None, None, "rate_limit_exceeded", "anthropic_failed"]
    servers = {span.span for span in collector.spans if span.kind == "SERVER"}
    for call in calls[:2]:
        assert call["gen_ai.request.max_tokens"] == 50
        assert call["gen_ai.response.finish_reasons"] == ["stop"]
        assert min(call["gen_ai.usage.input_tokens"], call["gen_ai.usage.output_tokens"]) > 0
        assert call.parent in servers


async def test_a_receiver_that_is_away_harms_nobody(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert deployment.chat(HELLO).status_code == 200


# ---------------------------------------------------------------- Server-Timing


def timing(answer: httpx.Response) -> dict[str, float]:
    return {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"])}


def test_a_whole_answer_says_where_its_time_went(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.2)
    found = timing(deployment.chat(HELLO))
    assert {"narrative", "proxy", "total"} <= found.keys() <= {"queue", "narrative", "proxy", "total"}
    assert found["total"] >= found["narrative"] >= 100
    assert "server-timing" not in deployment.http.get("/v1/models").headers


def test_a_stream_says_what_is_known_before_it_begins(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    found = timing(deployment.chat({**HELLO, "stream": True}))
    assert {"proxy", "total"} <= found.keys() <= {"queue", "proxy", "total"}
