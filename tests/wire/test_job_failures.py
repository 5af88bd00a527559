"""What failed jobs become over HTTP: the status of their cause, and whether a repeat is invited and what it costs."""

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import Deployment
from tests.scripts import script


def asking(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def attempts(*directives: dict[str, Any]) -> str:
    return script(key=uuid4().hex, attempts=list(directives))


def chunks(text: str) -> list[Any]:
    return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]


@pytest.mark.parametrize(
    ("cause", "status", "code", "repeat"),
    [
        (
            "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000",
            400,
            "context_length_exceeded",
            "false",
        ),
        (
            "max_tokens: 64064 > 64000, which is the maximum allowed number of output tokens for claude",
            400,
            None,
            "false",
        ),
        ("`temperature` and `top_p` cannot both be specified for this model.", 400, "unsupported_parameter", "false"),
        ("ThrottlingException: Too many tokens, please wait before trying again.", 429, "rate_limit_exceeded", "true"),
        ("Overloaded", 503, None, "true"),
        ("Something odd", 424, "narrative_job_failed", "false"),
    ],
)
def test_a_failed_job_has_the_status_of_its_cause(
    deployment: Deployment, cause: str, status: int, code: str | None, repeat: str
) -> None:
    request = asking(script(fail=f"{cause} ({uuid4()})"))
    before = deployment.jobs_submitted()
    answer = deployment.chat(request)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["x-should-retry"] == repeat
    assert ("retry-after" in answer.headers) is (repeat == "true")
    assert cause in answer.json()["error"]["message"]
    again = deployment.chat(request)
    assert again.status_code == status
    assert deployment.jobs_submitted() == before + (
        2 if repeat == "true" else 1
    )  # what would fail again is replayed for some seconds


def test_a_choice_that_fails_twice_comes_after_the_others_and_a_repeat_pays_for_it_alone(
    deployment: Deployment,
) -> None:
    request = asking(attempts({"text": "one"}, {"fail": "odd"}, {"fail": "odd"}, {"text": "two"}), n=2)
    before = deployment.jobs_submitted()
    streamed = chunks(deployment.chat({**request, "stream": True}).text)
    finished = [choice for chunk in streamed[:-1] for choice in chunk["choices"] if choice["finish_reason"]]
    assert len(finished) == 1
    error = streamed[-1]["error"]
    assert error["code"] == "narrative_job_failed"
    assert error["message"].count("-") >= 3 * 4  # three job ids
    assert deployment.jobs_submitted() == before + 3
    answer = deployment.chat(request)
    assert sorted(choice["message"]["content"] for choice in answer.json()["choices"]) == ["one", "two"]
    assert deployment.jobs_submitted() == before + 4


def test_the_limits_of_the_model_are_kept_and_what_was_changed_is_reported(deployment: Deployment) -> None:
    limits = {"max_tokens": 64_000, "extended_thinking": {"enabled": True, "budget_tokens": 8192}}
    answer = deployment.chat(asking(script(text="Hi."), **limits, temperature=0.5, top_p=0.9))
    config = deployment.submissions()[-1]["inference_config"]
    assert (config["max_tokens"], config["temperature"]) == (64_000, 0.5)
    assert "top_p" not in config
    assert "top_p: left out" in answer.headers["x-proxy-adjusted"]
    assert "thinking: lowered" in answer.headers["x-proxy-adjusted"]


def test_a_stop_string_at_the_very_start_leaves_an_empty_text(deployment: Deployment) -> None:
    for stream in (False, True):
        answer = deployment.chat(asking(script(text="END of it"), stop=["END"], stream=stream))
        if stream:
            choices = [choice for chunk in chunks(answer.text) for choice in chunk["choices"]]
            assert "".join(choice["delta"].get("content") or "" for choice in choices) == ""
            assert choices[-1]["finish_reason"] == "stop"
        else:
            assert answer.json()["choices"][0]["message"]["content"] == ""
