"""Cases as data, read whole and streamed: a request and the run body expected of it, an ended job and the response expected of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.api.anthropic.encode import MessageStream, message_body
from proxy.api.anthropic.routes import decode_body
from proxy.api.openai.decode import ChatReply, decode
from proxy.api.openai.encode import ChatStreamEncoder, completion_body
from proxy.api.openai.responses.decode import Decoding
from proxy.api.openai.responses.decode import decode as decode_response
from proxy.api.openai.responses.encode import finished
from proxy.api.openai.responses.stream import ResponseStreamEncoder
from proxy.api.openai.responses.types import ResponsesRequest
from proxy.api.openai.types import ChatRequest
from proxy.backends.narrative.output import choice_of, read_job, usage_of
from proxy.backends.narrative.prompt import Prepared, prepare
from proxy.backends.narrative.types import encoded
from proxy.catalog import load_catalog
from proxy.inference.request import Rules
from proxy.inference.result import Result, Usage, result_events
from tests.contract import assert_submission_keeps_the_contract
from tests.folding import assert_completion_is_openais, fold
from tests.messages_folding import as_messages, assert_message_is_anthropics, fold_messages, stream_events
from tests.records import job_of
from tests.responses_folding import as_responses, assert_response_is_openais, fold_items, response_events

CASES = sorted((Path(__file__).parent / "cases").glob("*.json"))
CATALOG = load_catalog()
RULES = Rules(efforts={"low": 2048, "medium": 4096})
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use"}
JOB_ID = "a81e1460-fbdc-4204-bd76-a9e496bf760d"


@pytest.fixture(params=CASES, ids=lambda file: file.stem)
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(request.param.read_text("utf-8"))


def prepared(case: dict[str, Any], **fields: Any) -> tuple[Prepared, ChatReply]:
    body = ChatRequest.model_validate({**case["request"], **fields})
    request, reply = decode(body, RULES, len(json.dumps(case["request"])))
    return prepare(request, CATALOG.match(request.model).card, RULES), reply


def run_body(made: Prepared) -> dict[str, Any]:
    body = made.body("fef9904e-d263-4930-85f7-1e28cce40f89", "rid:7d444840-9dc0-11d1-b245-5ffdce74fad2")
    return json.loads(encoded(body))


def test_the_request_becomes_the_run_body(case: dict[str, Any]) -> None:
    made, _ = prepared(case)
    body = run_body(made)
    assert_submission_keeps_the_contract(body)
    expected = case["run"]
    assert {key: body[key] for key in expected if key != "inference_config"} == {
        key: value for key, value in expected.items() if key != "inference_config"
    }
    if "inference_config" in expected:
        assert body["inference_config"] == expected["inference_config"]
    assert list(made.adjusted) == case.get("adjusted", [])
    assert list(made.ignored) == case.get("ignored", [])


@pytest.mark.parametrize("include_usage", [False, True])
def test_the_job_becomes_the_completion_and_its_chunks_fold_back_to_it(
    case: dict[str, Any], include_usage: bool
) -> None:
    made, reply = prepared(case, stream=True, stream_options={"include_usage": include_usage})
    job = job_of({"id": JOB_ID, **case["job"]})
    failures = "; ".join(job.failures)
    outcome = read_job(made.expected, job, failures)
    usage = usage_of(job.result.usage) if job.result else Usage()
    result = Result(JOB_ID.replace("-", ""), 1_700_000_000, "abc", (choice_of(made.expected, outcome),), usage)
    whole: Any = json.loads(completion_body(reply, result))
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
    stream = ChatStreamEncoder(reply)
    sent = b"".join(data for event in result_events(result) for data in stream.encode(event))
    chunks = [json.loads(line.removeprefix(b"data: ")) for line in sent.splitlines() if line]
    assert fold(chunks) == (whole if include_usage else {**whole, "usage": None})


def test_the_same_through_the_messages_api(case: dict[str, Any]) -> None:
    card = CATALOG.match(case["request"]["model"]).card
    body = as_messages(case["request"], card.max_tokens)
    request, reply, _ = decode_body(body, len(json.dumps(body)), rules=RULES)
    made = prepare(request, card, RULES)
    expected = {**case["run"], "messages": case["run"].get("messages")}
    sent = run_body(made)
    assert_submission_keeps_the_contract(sent)
    assert {name: sent[name] for name, value in expected.items() if value} == {
        name: value for name, value in expected.items() if value
    }
    job = job_of({"id": JOB_ID, **case["job"]})
    outcome = read_job(made.expected, job, "; ".join(job.failures))
    usage = usage_of(job.result.usage) if job.result else Usage()
    result = Result(JOB_ID.replace("-", ""), 1_700_000_000, "abc", (choice_of(made.expected, outcome),), usage)
    whole: Any = json.loads(message_body(reply, result))
    assert_message_is_anthropics(whole)
    stream = MessageStream(reply)
    raw = b"".join(data for event in result_events(result) for data in stream.encode(event)) + stream.end
    assert fold_messages(stream_events(raw)) == whole
    assert whole["model"] == case["request"]["model"]
    assert whole["stop_reason"] == STOP_REASONS[case["finish_reason"]]
    wanted = case["message"]
    calls = [*wanted.get("tool_calls", []), *([wanted["function_call"]] if "function_call" in wanted else [])]
    said = [block for block in whole["content"] if block["type"] != "tool_use"]
    assert [block["input"] for block in whole["content"] if block["type"] == "tool_use"] == [
        json.loads(call["arguments"]) for call in calls
    ]
    texts = {"thinking": wanted.get("reasoning_content"), "text": wanted["content"]}
    assert {block["type"]: block[block["type"]] for block in said} == {
        kind: text for kind, text in texts.items() if text
    }


def test_the_same_through_the_responses_api(case: dict[str, Any]) -> None:
    raw = as_responses(case["request"])
    rules = Rules(efforts={"low": 2000})
    request, reply = decode_response(ResponsesRequest.model_validate(raw), raw, len(json.dumps(raw)), Decoding(rules))
    made = prepare(request, CATALOG.match(request.model).card, rules)
    sent = run_body(made)
    assert_submission_keeps_the_contract(sent)
    assert {name: sent[name] for name in case["run"]} == case["run"]
    assert list(made.adjusted) == case.get("adjusted", [])
    job = job_of({"id": JOB_ID, **case["job"]})
    outcome = read_job(made.expected, job, "; ".join(job.failures))
    usage = usage_of(job.result.usage) if job.result else Usage()
    result = Result(JOB_ID.replace("-", ""), 1_700_000_000, "abc", (choice_of(made.expected, outcome),), usage)
    whole = finished("0" * 32, result, reply, str, 1_700_000_001)
    assert_response_is_openais(whole)
    encoder = ResponseStreamEncoder(reply, str)
    data = encoder.begin("0" * 32, 1_700_000_000)
    data += b"".join(data for event in result_events(result) for data in encoder.encode(event))
    events = response_events(data + encoder.finish(encoder.finished(1_700_000_001)))
    assert fold_items(events) == whole["output"]
    assert events[-1]["response"] == whole
    assert whole["status"] == ("incomplete" if case["finish_reason"] == "length" else "completed")
    wanted = case["message"]
    calls = [*wanted.get("tool_calls", []), *([wanted["function_call"]] if "function_call" in wanted else [])]
    said = [item["content"][0]["text"] for item in whole["output"] if item["type"] == "message"]
    thought = [item["summary"][0]["text"] for item in whole["output"] if item["type"] == "reasoning"]
    assert said == ([wanted["content"]] if wanted["content"] is not None else [])
    assert thought == ([wanted["reasoning_content"]] if "reasoning_content" in wanted else [])
    assert [
        {"name": item["name"], "arguments": item["arguments"]}
        for item in whole["output"]
        if item["type"] == "function_call"
    ] == calls
