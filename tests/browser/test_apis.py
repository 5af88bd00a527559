"""The playground on each API: what it sends there, and how it reads what comes back."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import last_turn, say, settle
from tests.conftest import Deployment
from tests.scripts import script

PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}
FINISHED = {"chat": "tool_calls", "messages": "tool_use", "responses": "completed"}
TRICKY = 'It\'s "quoted" $HOME `ls` \\n back\\slash\nnew line é 👩‍👩‍👧 \u2028 </script> EOF'
TWO_CALLS = [{"name": "get_weather", "arguments": {"city": city}} for city in ("Oslo", "Bergen")]


@pytest.fixture(params=["streamed", "whole"])
def playground(request: pytest.FixtureRequest, page: Page) -> Page:
    if request.param == "whole":
        page.get_by_label("Stream").uncheck()
    return page


def choose(page: Page, api: str) -> None:
    page.get_by_label("API", exact=True).select_option(api)


def request_of(page: Page) -> Any:
    """The request on the wire."""
    if page.locator("#wire-panes").is_hidden():
        page.locator("#wire-toggle").click()
    return json.loads(page.locator("#wire-request").inner_text())


def answer_calls(page: Page, *results: str) -> None:
    fields = page.get_by_label("Result of get_weather")
    for at, result in enumerate(results):
        fields.nth(at).fill(result)
    page.get_by_role("button", name=re.compile("^Send result")).last.click()


@pytest.mark.parametrize("api", PATHS)
def test_tools_are_called_and_answered(open_deployment: Deployment, playground: Page, api: str) -> None:
    page = playground
    choose(page, api)
    expect(page.locator(".address")).to_have_text(f"{open_deployment.url}{PATHS[api]}")
    page.get_by_role("button", name="Weather example").click()
    key = f"{api} {page.get_by_label('Stream').is_checked()}"
    say(page, script(key=key, attempts=[{"text": "Let me see.", "calls": TWO_CALLS}, {"text": "It rains."}]))
    turn = last_turn(page)
    expect(turn.locator(".said")).to_have_text("Let me see.")
    expect(turn.locator(".arguments")).to_have_text([re.compile("Oslo"), re.compile("Bergen")])
    expect(turn.locator(".facts")).to_have_text(re.compile(rf"finish {FINISHED[api]}\s*tokens \d+ in, \d+ out"))
    answer_calls(page, "rain-1", "rain-2")
    expect(page.locator(".turn.assistant")).to_have_count(2)
    settle(page)
    expect(last_turn(page).locator(".said")).to_have_text("It rains.")
    sent = open_deployment.submissions()[-1]["messages"]
    blocks = [block for message in sent for block in message["content"]]
    assert [block["input"]["city"] for block in blocks if block["type"] == "tool_use"] == ["Oslo", "Bergen"]
    assert [block["content"][0]["text"] for block in blocks if block["type"] == "tool_result"] == ["rain-1", "rain-2"]


@pytest.mark.parametrize("api", PATHS)
def test_reasoning_is_shown(playground: Page, api: str) -> None:
    choose(playground, api)
    playground.get_by_role("button", name="Think first").click()
    playground.get_by_role("button", name="Send", exact=True).click()
    settle(playground)
    last_turn(playground).locator(".reasoning").get_by_text("Reasoning").click()
    expect(last_turn(playground).locator(".reasoning .plain")).to_contain_text("without calling a tool")
    expect(last_turn(playground).locator(".said")).to_contain_text("42")


def set_everything(page: Page) -> None:
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_role("button", name="Weather example").click()
    page.get_by_label("Tool choice").select_option("none")
    page.get_by_label("Thinking").select_option("low")
    page.get_by_label("Temperature", exact=True).fill("0.3")
    page.get_by_label("Max tokens").fill("3000")


def test_every_setting_reaches_a_request_of_messages(page: Page) -> None:
    choose(page, "messages")
    set_everything(page)
    say(page, "Hi")
    sent = request_of(page)
    (tool,) = sent.pop("tools")
    assert (tool["name"], list(tool["input_schema"]["properties"])) == ("get_weather", ["city", "unit"])
    assert sent == {
        "model": "claude-4-5-haiku",
        "max_tokens": 3000,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Hi"}],
        "tool_choice": {"type": "none"},
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "low"},
        "temperature": 0.3,
        "stream": True,
    }


def test_every_setting_reaches_a_request_of_responses(page: Page) -> None:
    choose(page, "responses")
    set_everything(page)
    say(page, "Hi")
    sent = request_of(page)
    (tool,) = sent.pop("tools")
    assert (tool["type"], tool["name"], list(tool["parameters"]["properties"])) == (
        "function",
        "get_weather",
        ["city", "unit"],
    )
    assert sent == {
        "model": "claude-4-5-haiku",
        "input": [{"role": "user", "content": "Hi"}],
        "store": False,
        "instructions": "Be brief.",
        "tool_choice": "none",
        "reasoning": {"effort": "low", "summary": "auto"},
        "temperature": 0.3,
        "max_output_tokens": 3000,
        "stream": True,
    }


def test_a_conversation_goes_on_at_another_api(page: Page) -> None:
    page.get_by_role("button", name="Weather example").click()
    say(page, script(text="Let me see.", calls=TWO_CALLS[:1]))
    choose(page, "messages")
    answer_calls(page, "rain-1")
    expect(page.locator(".turn.assistant")).to_have_count(2)
    settle(page)
    choose(page, "responses")
    say(page, "Hello!")
    kinds = [item.get("type", item.get("role")) for item in request_of(page)["input"]]
    assert kinds == ["user", "assistant", "function_call", "function_call_output", "assistant", "user"]
    expect(page.locator("#wire-path")).to_have_text("POST /v1/responses")


@pytest.mark.parametrize("api", ["messages", "responses"])
def test_request_job_and_events_stand_side_by_side(page: Page, api: str) -> None:
    choose(page, api)
    say(page, script(text="A word nobody else says: quokka."))
    request_of(page)
    expect(page.locator("#wire-path")).to_have_text(f"POST {PATHS[api]}")
    expect(page.locator("#wire-job")).to_contain_text("anthropic.claude-haiku-4.5")
    expect(page.locator("#wire-chunks")).to_contain_text("quokka")
    expect(page.locator("#wire-job-id")).to_have_text(re.compile(r"^[0-9a-f-]{36}$"))


@pytest.mark.parametrize("api", ["messages", "responses"])
def test_failures_are_shown_and_can_be_sent_again(page: Page, api: str) -> None:
    choose(page, api)
    say(page, script(key=f"again at {api}", attempts=[{"fail": "The GPU melted"}, {"text": "Better."}]))
    expect(last_turn(page).get_by_role("alert")).to_contain_text("The GPU melted")
    page.get_by_role("button", name="Send again").click()
    expect(page.locator(".turn.assistant")).to_have_count(2)
    settle(page)
    expect(last_turn(page).locator(".said")).to_have_text("Better.")
    page.get_by_label(re.compile("^Tools")).fill('[{"type": "function", "function": {"name": "f", "parameters": 7}}]')
    say(page, "Hi")
    expect(last_turn(page).get_by_role("alert")).to_contain_text(re.compile(r"400 · (invalid_request_error|invalid_)"))


def copied(page: Page, name: str) -> str:
    last_turn(page).get_by_role("button", name=f"Copy as {name}").click()
    expect(page.get_by_role("status").filter(has_text=f"Copied as {name}")).to_have_count(1)
    return str(page.evaluate("navigator.clipboard.readText()"))


@pytest.mark.parametrize("api", ["messages", "responses"])
def test_the_snippets_send_the_same_request(open_deployment: Deployment, playground: Page, api: str) -> None:
    choose(playground, api)
    set_everything(playground)
    say(playground, f"{TRICKY} {script(text='Said by the sandbox.')}")
    for name, command in (("curl", ["sh", "-c"]), ("Python", [sys.executable, "-c"])):
        done = subprocess.run(
            [*command, copied(playground, name)], check=True, capture_output=True, text=True, timeout=60
        )
        assert "Said by the sandbox." in done.stdout or name == "curl"
        one, other = ({**body, "tags": None} for body in open_deployment.submissions()[-2:])
        assert one == other


@pytest.mark.parametrize(("api", "library"), [("messages", "@anthropic-ai/sdk"), ("responses", "openai")])
def test_the_node_snippet_names_the_apis_library(page: Page, api: str, library: str) -> None:
    choose(page, api)
    say(page, "Hi")
    text = copied(page, "Node")
    assert f'from "{library}"' in text
    assert f"client.{api}.create(" in text
