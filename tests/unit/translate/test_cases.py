"""Cases as data, read in both modes: a request and the run body expected of it, an ended job and the answer expected of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.api.http.bodies import parse_body
from proxy.backends.narrative.types import Job
from proxy.catalog import load_catalog
from proxy.settings import config_folder
from proxy.translate.chunks import closing_chunks, opening_chunks
from proxy.translate.plan import Plan, PlanRules, make_plan
from proxy.translate.reply import completion, read_ending, stamp_of
from proxy.wire.openai import ChatRequest
from tests.contract import assert_submission_keeps_the_contract
from tests.folding import assert_completion_is_openais, fold

CASES = sorted((Path(__file__).parents[2] / "cases").glob("*.json"))
CATALOG = load_catalog(config_folder() / "models.toml")
RULES = PlanRules(efforts={"low": 2048, "medium": 4096})
JOB_ID = "a81e1460-fbdc-4204-bd76-a9e496bf760d"


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8"))


def plan_of(case: dict[str, Any]) -> Plan:
    request = parse_body(ChatRequest, json.dumps(case["request"]).encode())
    return make_plan(request, CATALOG.find(request.model), RULES)


def run_body(plan: Plan) -> dict[str, Any]:
    request = plan.run_request(
        data_plane_id="fef9904e-d263-4930-85f7-1e28cce40f89", rid="7d444840-9dc0-11d1-b245-5ffdce74fad2"
    )
    return json.loads(request.model_dump_json(exclude_none=True))


@pytest.fixture(params=CASES, ids=lambda file: file.stem)
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param)


def test_the_request_becomes_the_run_body(case: dict[str, Any]) -> None:
    plan = plan_of(case)
    body = run_body(plan)
    assert_submission_keeps_the_contract(body)
    expected = case["run"]
    assert {key: body[key] for key in expected if key != "inference_config"} == {
        key: value for key, value in expected.items() if key != "inference_config"
    }
    if "inference_config" in expected:
        assert body["inference_config"] == expected["inference_config"]
    assert list(plan.adjusted) == case.get("adjusted", [])
    assert list(plan.ignored) == case.get("ignored", [])


@pytest.mark.parametrize("include_usage", [False, True])
def test_the_job_becomes_the_completion_and_its_chunks_fold_back_to_it(
    case: dict[str, Any], include_usage: bool
) -> None:
    plan = plan_of(case)
    job = Job.model_validate({"id": JOB_ID, **case["job"]})
    stamp = stamp_of(plan, job.id, created=1_700_000_000, upstream_url="http://upstream")
    whole = completion(plan, stamp, [read_ending(plan.envelope, job)])
    assert_completion_is_openais(whole)
    message = dict(whole["choices"][0]["message"])
    assert message.pop("role") == "assistant"
    assert message.pop("refusal") is None
    if "tool_calls" in message:
        message["tool_calls"] = [call["function"] for call in message["tool_calls"]]
    assert message == case["message"]
    assert whole["choices"][0]["finish_reason"] == case["finish_reason"]
    assert whole["usage"] == case.get("usage", {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15})
    assert whole["model"] == case["request"]["model"]
    chunks = [
        *opening_chunks(stamp, 1, include_usage=include_usage),
        *closing_chunks(whole, include_usage=include_usage),
    ]
    assert fold(chunks) == (whole if include_usage else {**whole, "usage": None})
