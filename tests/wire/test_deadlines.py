"""A client's own timeout shortens the deadline; what its job becomes is then for its retry."""

import json
from typing import Any

import pytest

from tests.conftest import Deployment
from tests.scripts import script

ENDLESS = {"messages": [{"role": "user", "content": script(state="running")}]}


@pytest.mark.parametrize("header", ["x-stainless-read-timeout", "x-stainless-timeout", "x-request-timeout"])
def test_a_plain_answer_is_not_waited_for_longer_than_its_client_waits(deployment: Deployment, header: str) -> None:
    answer = deployment.chat(ENDLESS, headers={header: "0.3"})
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "job_timeout"
    assert answer.headers["x-should-retry"] == "true"  # the repeat takes the job up
    assert answer.headers["x-narrative-job-id"] in answer.json()["error"]["message"]


def test_a_stream_says_so_in_its_last_event(deployment: Deployment) -> None:
    answer = deployment.chat({**ENDLESS, "stream": True}, headers={"x-request-timeout": "0.3"})
    last = json.loads(answer.text.strip().split("data: ")[-1])
    assert last["error"]["code"] == "job_timeout"


def test_a_longer_timeout_does_not_lengthen_the_settings_deadline(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_JOBS__DEADLINE_S": "0.3"})
    assert deployment.chat(ENDLESS, headers={"x-request-timeout": "60"}).status_code == 504


def test_after_a_timeout_the_sdks_retry_takes_up_the_job(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(running_s=1.0)
    hello = {"messages": [{"role": "user", "content": "Hello!"}]}
    assert deployment.chat(hello, headers={"x-stainless-read-timeout": "0.3"}).status_code == 504
    answer = deployment.chat(hello, headers={"x-stainless-read-timeout": "30", "x-stainless-retry-count": "1"})
    assert answer.status_code == 200
    assert deployment.jobs_submitted() == 1
