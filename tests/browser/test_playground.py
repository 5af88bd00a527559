"""Sending, streaming, tools, errors: what somebody does who tries the server out."""

import json
import re
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.conftest import Opener, last_turn, say, settle
from tests.conftest import Deployment
from tests.scripts import script

TEXT = "Once there was a **very** long tale. " * 12


def test_a_message_is_sent_and_its_answer_comes_with_usage_finish_and_time(page: Page) -> None:
    say(page, script(text="Hello **there**."))
    expect(last_turn(page).locator(".said")).to_have_text("Hello there.")
    expect(last_turn(page).locator(".said strong")).to_have_text("there")
    expect(last_turn(page).locator(".facts")).to_have_text(re.compile(r"finish stop\s*tokens \d+ in, \d+ out"))
    expect(page.get_by_role("status").filter(has_text="The answer is complete")).to_have_count(1)


def test_the_stream_is_seen_as_it_comes(open_deployment: Deployment, page: Page) -> None:
    page.get_by_label("Message", exact=True).fill(script(state="running", text=TEXT))
    page.get_by_role("button", name="Send", exact=True).click()
    expect(last_turn(page)).to_have_attribute("aria-busy", "true")
    expect(last_turn(page).locator(".waiting")).to_be_visible()
    page.locator("#wire-toggle").click()
    expect(page.locator("#wire-chunks")).to_contain_text('"role":"assistant"')
    store = open_deployment.sandbox.state.store
    store.finish(list(store.jobs())[-1].id, "completed")
    settle(page)
    expect(last_turn(page).locator(".said")).to_have_text(TEXT.replace("**", "").strip())
    assert page.locator("#wire-chunks .piece-of-raw").count() > 10
    expect(page.locator("#wire-chunks")).to_contain_text("[DONE]")


def test_an_answer_can_come_whole(page: Page) -> None:
    page.get_by_label("Stream").uncheck()
    say(page, script(text="All at once."))
    expect(last_turn(page).locator(".said")).to_have_text("All at once.")
    page.locator("#wire-toggle").click()
    expect(page.locator("#wire-chunks")).to_contain_text('"chat.completion"')
    expect(page.locator("#wire-request")).not_to_contain_text("stream")


def test_waiting_can_be_stopped(page: Page) -> None:
    page.get_by_label("Message", exact=True).fill(script(state="pending"))
    page.get_by_role("button", name="Send", exact=True).click()
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Stopped.")
    page.get_by_role("button", name="New conversation").click()
    say(page, script(text="Still here."))
    expect(last_turn(page).locator(".said")).to_have_text("Still here.")


def test_a_newcomer_calls_a_tool_with_three_clicks_and_answers_it_by_hand(page: Page) -> None:
    page.get_by_role("button", name="Call a tool").click()
    page.get_by_role("button", name="Send", exact=True).click()
    call = page.get_by_role("region", name="Call of get_weather")
    expect(call.locator(".arguments")).to_have_text(re.compile(r'"city": "Oslo"'))
    expect(last_turn(page).locator(".facts")).to_contain_text("tool_calls")
    page.get_by_label("Result of get_weather").fill('{"temperature": 31}')
    page.get_by_role("button", name="Send result").click()
    expect(page.locator(".turn.assistant")).to_have_count(2)
    settle(page)
    expect(last_turn(page).locator(".said")).to_contain_text("31")


def test_several_calls_are_answered_together(page: Page) -> None:
    page.get_by_role("button", name="Weather example").click()
    calls = [{"name": "get_weather", "arguments": {"city": city}} for city in ("Oslo", "Bergen")]
    say(page, script(calls=calls))
    fields = page.get_by_label("Result of get_weather")
    expect(fields).to_have_count(2)
    fields.nth(0).fill("rain-1")
    fields.nth(1).fill("rain-2")
    page.get_by_role("button", name="Send results").click()
    expect(page.locator(".turn.assistant")).to_have_count(2)
    settle(page)
    page.locator("#wire-toggle").click()
    sent = json.loads(page.locator("#wire-request").inner_text())
    ids = [call["id"] for call in sent["messages"][1]["tool_calls"]]
    assert [(each["tool_call_id"], each["content"]) for each in sent["messages"][2:]] == [
        (ids[0], "rain-1"),
        (ids[1], "rain-2"),
    ]


def test_reasoning_is_there_and_can_be_folded(page: Page) -> None:
    page.get_by_role("button", name="Think first").click()
    page.get_by_role("button", name="Send", exact=True).click()
    settle(page)
    reasoning = last_turn(page).locator(".reasoning")
    expect(reasoning.locator(".plain")).to_be_hidden()
    reasoning.get_by_text("Reasoning").click()
    expect(reasoning.locator(".plain")).to_be_visible()
    expect(last_turn(page).locator(".said")).to_contain_text("42")


def test_every_setting_reaches_the_request(page: Page) -> None:
    page.get_by_label("Model", exact=True).select_option("gpt-4.1")
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_role("button", name="Weather example").click()
    page.get_by_label("Tool choice").select_option("none")
    page.get_by_label("Thinking").select_option("low")
    page.get_by_label("Temperature", exact=True).fill("0.3")
    page.get_by_label("Max tokens").fill("500")
    say(page, "Hi")
    page.locator("#wire-toggle").click()
    sent = json.loads(page.locator("#wire-request").inner_text())
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert {name: sent[name] for name in sent if name not in ("messages", "tools")} == {
        "model": "gpt-4.1",
        "tool_choice": "none",
        "reasoning_effort": "low",
        "temperature": 0.3,
        "max_tokens": 500,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_request_job_and_chunks_stand_side_by_side(open_deployment: Deployment, page: Page) -> None:
    say(page, "Hi")
    page.locator("#wire-toggle").click()
    expect(page.locator("#wire-job")).to_contain_text("POST /model-inference/run")
    expect(page.locator("#wire-job")).to_contain_text("anthropic.claude-haiku-4.5")
    expect(page.locator("#wire-job-id")).to_have_text(re.compile(r"^[0-9a-f-]{36}$"))
    boxes = [page.locator(f"#wire-{name}").bounding_box() for name in ("request", "job", "chunks")]
    assert all(boxes)
    tops: set[Any] = {round(box["y"]) for box in boxes if box}
    assert len(tops) == 1


def test_the_time_line_has_the_browsers_times_and_the_jobs_own(page: Page) -> None:
    say(page, "Hi")
    last_turn(page).locator(".timing summary").click()
    expect(last_turn(page).locator(".marks dt")).to_have_text(
        ["submitted", "accepted", "first byte", "first words", "done"]
    )
    expect(last_turn(page).locator(".timeline")).to_contain_text(re.compile(r"completed: created .* UTC"))


def test_a_refused_request_shows_message_code_and_place(page: Page) -> None:
    page.get_by_label(re.compile("^Tools")).fill(
        '[{"type": "function", "function": {"name": "f", "parameters": {"type": 7}}}]'
    )
    say(page, "Hi")
    expect(last_turn(page).get_by_role("alert")).to_contain_text(
        "400 · invalid_json_schema · at tools[0].function.parameters"
    )


def test_a_job_that_fails_within_the_stream_is_shown_and_can_be_sent_again(page: Page) -> None:
    say(page, script(key="again", attempts=[{"fail": "The GPU melted"}, {"text": "Better."}]))
    expect(last_turn(page).get_by_role("alert")).to_contain_text("narrative_job_failed")
    page.get_by_role("button", name="Send again").click()
    expect(page.locator(".turn.assistant")).to_have_count(2)
    settle(page)
    expect(last_turn(page).locator(".said")).to_have_text("Better.")


def test_tools_that_are_no_json_are_pointed_out_and_nothing_is_sent(open_deployment: Deployment, page: Page) -> None:
    before = open_deployment.jobs_submitted()
    page.get_by_label(re.compile("^Tools")).fill("[{]")
    expect(page.locator("#tools-note")).to_contain_text("Not JSON")
    page.get_by_label("Message", exact=True).fill("Hi")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Not JSON")
    expect(page.get_by_label(re.compile("^Tools"))).to_be_focused()
    expect(page.get_by_label("Message", exact=True)).to_have_value("Hi")
    assert open_deployment.jobs_submitted() == before


def test_a_new_conversation_forgets_the_old_one(page: Page) -> None:
    say(page, "One")
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("heading", name="Try a request")).to_be_visible()
    say(page, "Two")
    page.locator("#wire-toggle").click()
    expect(page.locator("#wire-request")).to_contain_text("Two")
    expect(page.locator("#wire-request")).not_to_contain_text("One")


def test_a_model_chosen_here_outlives_a_new_list(open_console: Opener) -> None:
    page = open_console()
    page.get_by_label("Model", exact=True).select_option("gpt-4.1")
    page.get_by_role("button", name="Key").click()
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    say(page, "Hi")
    expect(page.get_by_label("Model", exact=True)).to_have_value("gpt-4.1")
