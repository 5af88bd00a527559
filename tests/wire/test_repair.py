"""Output that does not match is asked for again, refusals are met with a simpler form, and no wrong answer is delivered as right."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import Deployment
from tests.scripts import script

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": CITY}}
STRICT = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]
RIGHT = {"calls": [{"name": "weather", "arguments": {"city": "Rome"}}]}
WRONG = {"calls": [{"name": "weather", "arguments": {"days": "many"}}]}


def attempts(*directives: Any) -> list[dict[str, str]]:
    return [{"role": "user", "content": script(key=uuid4().hex, attempts=list(directives))}]


def arguments(answer: Any) -> list[Any]:
    calls = answer.json()["choices"][0]["message"]["tool_calls"]
    return [json.loads(call["function"]["arguments"]) for call in calls]


@pytest.mark.parametrize("tool", [WEATHER, STRICT])
def test_arguments_that_do_not_match_are_asked_for_again_once_and_usage_is_added_up(
    deployment: Deployment, tool: Any
) -> None:
    before = deployment.jobs_submitted()
    answer = deployment.chat({"messages": attempts(WRONG, RIGHT), "tools": [tool]})
    assert arguments(answer) == [{"city": "Rome"}]
    assert deployment.jobs_submitted() == before + 2
    assert len(answer.headers["x-narrative-job-id"].split(", ")) == 2
    last_turns = deployment.submissions()[-1]["messages"][-2:]
    assert [turn["role"] for turn in last_turns] == ["assistant", "user"]
    assert "city" in last_turns[1]["content"][0]["text"]
    once = deployment.chat({"messages": attempts(RIGHT), "tools": [tool]})
    assert answer.json()["usage"]["prompt_tokens"] > 2 * once.json()["usage"]["prompt_tokens"]


def test_strict_arguments_that_never_match_are_a_424_with_the_first_errors(deployment: Deployment) -> None:
    before = deployment.jobs_submitted()
    for stream in (False, True):
        answer = deployment.chat({"messages": attempts(WRONG, WRONG), "tools": [STRICT], "stream": stream})
        error = json.loads(answer.text.strip().split("data: ")[-1])["error"]
        assert error["code"] == "narrative_invalid_output"
        assert '"city"' in error["message"]
    assert deployment.jobs_submitted() == before + 4


def test_without_strict_the_last_answer_is_delivered_as_it_is_and_reported(deployment: Deployment) -> None:
    answer = deployment.chat({"messages": attempts(WRONG, WRONG), "tools": [WEATHER]})
    assert arguments(answer) == [{"days": "many"}]
    assert "$.days" in answer.headers["x-proxy-unmatched"]


@pytest.mark.parametrize(("tries", "jobs"), [("0", 1), ("3", 4)])
def test_the_number_of_tries_is_a_setting(make_deployment: Any, tries: str, jobs: int) -> None:
    deployment = make_deployment({"PROXY_CHAT__REPAIR_TRIES": tries})
    answer = deployment.chat({"messages": attempts(WRONG, WRONG, WRONG, WRONG), "tools": [STRICT]})
    assert answer.status_code == 424
    assert deployment.jobs_submitted() == jobs


def test_arguments_wrong_only_in_spelling_are_corrected_without_a_new_job(deployment: Deployment) -> None:
    before = deployment.jobs_submitted()
    misspelt = {"calls": [{"name": "weather", "arguments": {"city": "Rome", "days": "3"}}]}
    assert arguments(deployment.chat({"messages": attempts(misspelt), "tools": [STRICT]})) == [
        {"city": "Rome", "days": 3}
    ]
    assert deployment.jobs_submitted() == before + 1


def test_a_required_call_that_did_not_come_is_asked_for_again(deployment: Deployment) -> None:
    none = {"output": {"content": "I would rather talk.", "tool_calls": []}}
    wanted = {"tools": [WEATHER], "tool_choice": "required"}
    assert arguments(deployment.chat({"messages": attempts(none, RIGHT), **wanted})) == [{"city": "Rome"}]
    assert (
        deployment.chat({"messages": attempts(none, none), **wanted}).json()["error"]["code"]
        == "narrative_invalid_output"
    )


def test_a_call_to_an_unknown_tool_is_asked_for_again_and_never_passed_on(deployment: Deployment) -> None:
    unknown = {"output": {"content": "", "tool_calls": [{"launch_missiles": {}}]}}
    assert arguments(deployment.chat({"messages": attempts(unknown, RIGHT), "tools": [WEATHER]})) == [{"city": "Rome"}]
    empty = deployment.chat({"messages": attempts(unknown, unknown), "tools": [WEATHER]})
    assert empty.json()["error"]["code"] == "narrative_invalid_output"
    beside_words = {"output": {"content": "Ready.", "tool_calls": [{"launch_missiles": {}}]}}
    answer = deployment.chat({"messages": attempts(beside_words, beside_words), "tools": [WEATHER]})
    assert answer.json()["choices"][0]["message"]["content"] == "Ready."
    assert "launch_missiles" not in answer.text


POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}


@pytest.mark.parametrize("wrong", [{"x": "one"}, {}, "Sure! Here it is.", "```json\n{}\n```"])
def test_structured_output_that_does_not_match_is_asked_for_again(deployment: Deployment, wrong: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "p", "schema": POINT, "strict": True}}
    good = deployment.chat({"messages": attempts({"output": wrong}, {"output": {"x": 1}}), "response_format": wanted})
    assert good.json()["choices"][0]["message"]["content"] == '{"x":1}'
    bad = deployment.chat({"messages": attempts({"output": wrong}, {"output": wrong}), "response_format": wanted})
    assert bad.json()["error"]["code"] == "narrative_invalid_output"
    assert bad.headers["x-should-retry"] == "false"


def test_tools_response_format_and_thinking_together_streamed(deployment: Deployment) -> None:
    wanted = {
        "tools": [WEATHER],
        "response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": POINT, "strict": True}},
        "extended_thinking": {"enabled": True, "budget_tokens": 1024},
    }
    for stream in (False, True):
        called = deployment.chat({"messages": attempts(RIGHT), **wanted, "stream": stream})
        assert '"name":"weather"' in called.text
        said = deployment.chat(
            {
                "messages": attempts({"output": {"reasoning": "hm", "answer": {"x": 2}, "tool_calls": []}}),
                **wanted,
                "stream": stream,
            }
        )
        assert "hm" in said.text
        assert '{\\"x\\":2}' in said.text


# ---------------------------------------------------------------- simpler forms

ANY_OF = """
[[models]]
id = "anthropic.claude-haiku-4.5"
names = ["claude-4-5-haiku"]
max_tokens = 4096
tool_encoding = "any_of"
"""


@pytest.fixture
def any_of_models(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "models.toml"
    file.write_text(ANY_OF, "utf-8")
    return {"PROXY_CHAT__MODELS_FILE": str(file)}


def test_an_encoding_with_alternatives_can_be_chosen_per_model(
    make_deployment: Any, any_of_models: dict[str, str]
) -> None:
    deployment = make_deployment(any_of_models, schema_keywords="full")
    answer = deployment.chat({"messages": attempts(RIGHT), "tools": [WEATHER]})
    assert arguments(answer) == [{"city": "Rome"}]
    items = deployment.submissions()[-1]["inference_config"]["output_format_schema"]["properties"]["tool_calls"][
        "items"
    ]
    assert items.keys() == {"anyOf"}


@pytest.mark.parametrize("refusals", ["reject", "fail"])
def test_a_refused_schema_is_met_once_with_the_simple_form_which_is_remembered(
    make_deployment: Any, any_of_models: dict[str, str], refusals: str
) -> None:
    deployment = make_deployment(any_of_models, refusals=refusals)
    for stream in (False, True):
        answer = deployment.chat({"messages": attempts(RIGHT, RIGHT), "tools": [WEATHER], "stream": stream})
        assert answer.status_code == 200, answer.text
        assert "Rome" in answer.text
    wasted = 1 if refusals == "fail" else 0
    assert deployment.jobs_submitted() == 2 + wasted
    assert len(deployment.sandbox.state.store.refused) == 1 - wasted
    assert answer.headers["x-proxy-adjusted"] == "tools: written in the simple form, with arguments as JSON text"


def test_a_schema_that_is_refused_in_every_form_is_a_400(make_deployment: Any) -> None:
    deployment = make_deployment(max_schema_bytes=50)
    answer = deployment.chat({"messages": attempts(RIGHT), "tools": [WEATHER]})
    assert answer.json()["error"]["code"] == "invalid_json_schema"


@pytest.mark.parametrize("refusals", ["reject", "fail"])
def test_refused_tool_blocks_in_the_history_are_written_as_text(make_deployment: Any, refusals: str) -> None:
    deployment = make_deployment(tool_blocks=False, refusals=refusals)
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    history = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "21 degrees"},
    ]
    answer = deployment.chat({"messages": history})
    assert answer.status_code == 200, answer.text
    assert "21 degrees" in json.dumps(deployment.submissions()[-1]["messages"])
    again = deployment.chat({"messages": history})
    assert again.headers["x-proxy-adjusted"] == "history: past tool calls and results written as text"
