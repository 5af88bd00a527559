"""Blanks ahead of plain answers that take long (`chat.keepalive_json_s`)."""

import asyncio
import json
from typing import Any

import httpx

from tests.conftest import Deployment
from tests.scripts import script
from tests.waiting import until

OFTEN = {"PROXY_CHAT__KEEPALIVE_JSON_S": "0.02"}
SELDOM = {"PROXY_CHAT__KEEPALIVE_JSON_S": "60"}


def ask(text: str) -> dict[str, Any]:
    return {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": text}]}


def test_a_long_answer_is_json_with_blanks_ahead_of_it(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(OFTEN, running_s=0.5)
    answer = deployment.chat(ask(script(text="At last.")))
    assert answer.status_code == 200
    assert answer.content.startswith(b"  ")
    assert answer.json()["choices"][0]["message"]["content"] == "At last."
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-narrative-job-id"]
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answer.headers


def test_a_failure_after_the_first_blank_is_an_error_object_in_a_200(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(OFTEN, running_s=0.5)
    answer = deployment.chat(ask(script(fail="The GPU melted")))
    assert answer.status_code == 200
    assert json.loads(answer.content)["error"]["code"] == "narrative_job_failed"


def test_what_ends_before_the_first_blank_is_answered_as_ever(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(SELDOM)
    plain = deployment.chat(ask("Hello!"))
    assert plain.status_code == 200
    assert plain.content.startswith(b"{")
    assert int(plain.headers["content-length"]) == len(plain.content)
    failed = deployment.chat(ask(script(fail="The GPU melted")))
    assert failed.status_code == 424
    assert failed.headers["x-should-retry"] == "false"
    assert deployment.chat({**ask("hi"), "model": "gpt-99"}).status_code == 404


def test_no_blanks_unless_a_setting_asks_for_them(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=0.2)
    assert deployment.chat(ask("Hello!")).content.startswith(b"{")


def test_blanks_keep_the_clients_own_read_timeout_from_shortening_the_deadline(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(OFTEN, running_s=0.6)
    answer = deployment.chat(ask(script(text="At last.")), headers={"x-stainless-read-timeout": "0.3"})
    assert answer.json()["choices"][0]["message"]["content"] == "At last."


async def test_a_client_that_leaves_after_the_first_blank_stops_the_waiting(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(OFTEN)
    headers = {"authorization": "Bearer test-key"}
    async with httpx.AsyncClient(base_url=deployment.url, headers=headers) as client, asyncio.timeout(30):
        async with client.stream("POST", "/v1/chat/completions", json=ask(script(state="running"))) as answer:
            assert await anext(answer.aiter_raw()) == b" "
            assert deployment.in_flight() == 1
        await until(lambda: deployment.in_flight() == 0)
