"""The page itself: keys, keyboard, phones, colours, the charts, and the code it hands out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Opener, last_turn, say, settle
from tests.conftest import Deployment
from tests.scripts import script

PHONE = {"width": 390, "height": 844}


# ---------------------------------------------------------------- keys


def test_a_key_is_asked_for_when_the_server_wants_one_and_stays_in_the_tab(
    deployment: Deployment, open_console: Opener
) -> None:
    page = open_console(deployment)
    dialog = page.get_by_role("dialog", name="API key")
    expect(dialog).to_contain_text("No API key provided")
    expect(dialog.get_by_label("Key", exact=True)).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("Incorrect API key provided.")
    dialog.get_by_label("Key", exact=True).fill("test-key")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Model", exact=True)).to_have_value("claude-4-5-haiku")
    say(page, script(text="Let in."))
    expect(last_turn(page).locator(".said")).to_have_text("Let in.")
    kept = page.evaluate("JSON.stringify([{...localStorage}, document.cookie, location.href, document.body.innerHTML])")
    assert "test-key" not in kept
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_have_value("claude-4-5-haiku")
    expect(dialog).to_be_hidden()
    other = page.context.new_page()
    other.goto(f"{deployment.url}/console/")
    expect(other.get_by_role("dialog", name="API key")).to_be_visible()


def test_without_a_key_nothing_is_sent(deployment: Deployment, open_console: Opener) -> None:
    page = open_console(deployment)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_label("Message", exact=True).fill("Hi")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("No model is chosen")
    expect(page.locator(".turn")).to_have_count(0)


def test_a_message_sent_before_the_models_are_listed_waits_for_them(open_console: Opener) -> None:
    page = open_console()
    held: list[Route] = []
    page.route("**/v1/models", lambda route: held.append(route))  # noqa: PLW0108  a builtin is not taken
    with page.expect_request("**/v1/models"):
        page.reload()
    page.get_by_label("Message", exact=True).fill(script(text="After all."))
    page.keyboard.press("Control+Enter")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".turn")).to_have_count(0)
    held[0].continue_()
    expect(last_turn(page).locator(".said")).to_have_text("After all.")
    expect(page.locator(".turn")).to_have_count(2)


def test_a_key_can_be_taken_away(deployment: Deployment, open_console: Opener) -> None:
    page = open_console(deployment)
    page.get_by_label("Key", exact=True).fill("test-key")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Key set").click()
    page.get_by_label("Key", exact=True).fill("")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("No API key provided")
    assert page.evaluate("sessionStorage.length") == 0


def test_a_narrative_tokens_data_plane_goes_with_it(make_deployment: Any, open_console: Opener) -> None:
    deployment = make_deployment({"NARRATIVE_API_KEY": "", "PROXY_API_KEYS": "", "NARRATIVE_DATA_PLANE_ID": ""})
    page = open_console(deployment)
    plane = "11111111-2222-4333-8444-555555555555"
    page.get_by_label("Key", exact=True).fill("my-token")
    page.get_by_label("Data plane").fill(plane)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Model", exact=True)).to_have_value("claude-4-5-haiku")
    say(page, script(text="Mine."))
    expect(last_turn(page).locator(".said")).to_have_text("Mine.")
    assert deployment.submissions()[-1]["data_plane_id"] == plane


# ---------------------------------------------------------------- keyboard, phones, colours


def test_the_whole_loop_works_with_the_keyboard_alone(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the message")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    for _ in range(10):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.id") == "start-tools":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_label("Result of get_weather")).to_be_focused()
    page.keyboard.press("Control+a")
    page.keyboard.type("snow")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".turn.assistant")).to_have_count(2)
    settle(page)
    expect(last_turn(page).locator(".said")).to_contain_text("snow")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()


def test_enter_alone_is_a_line_break(page: Page) -> None:
    page.get_by_label("Message", exact=True).focus()
    page.keyboard.type("a")
    page.keyboard.press("Enter")
    page.keyboard.type("b")
    expect(page.get_by_label("Message", exact=True)).to_have_value("a\nb")


def test_everything_that_can_be_used_has_a_name(page: Page) -> None:
    say(page, "Hi")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, a[href], summary")]
            .filter((each) => !(each.labels?.length || each.getAttribute("aria-label") || each.textContent.trim()))
            .map((each) => each.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("view", ["playground", "live", "batches"])
def test_nothing_is_wider_than_a_phone(open_console: Opener, view: str) -> None:
    page = open_console(view=view, viewport=PHONE, has_touch=True)
    if view == "playground":
        say(page, script(text=f"```\n{'wide ' * 60}\n```\n{'w' * 200}"))
        page.locator("#wire-toggle").click()
    elif view == "batches":
        expect(page.get_by_role("heading", name="Batches", exact=True)).to_be_visible()
    else:
        expect(page.locator("#charts canvas").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_on_a_phone_the_settings_are_folded_and_can_be_opened(open_console: Opener) -> None:
    page = open_console(viewport=PHONE)
    expect(page.get_by_label("Model", exact=True)).to_be_hidden()
    page.get_by_text("Settings", exact=True).click()
    expect(page.get_by_label("Model", exact=True)).to_be_visible()


def test_colours_follow_the_system_until_they_are_chosen(open_console: Opener) -> None:
    page = open_console(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Colours").click()
    light = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == light
    page.get_by_role("button", name="Colours: light").click()
    assert page.evaluate(ground) == dark


# ---------------------------------------------------------------- live


def test_live_draws_the_metrics_and_lists_requests_without_content(
    open_deployment: Deployment, open_console: Opener
) -> None:
    open_deployment.chat({"messages": [{"role": "user", "content": "quokka"}]})
    page = open_console(view="live")
    expect(page.locator("#charts figcaption")).to_have_text(
        [
            "Jobs",
            "Requests a minute",
            "Time to answer",
            "Delay of notice",
            "Upstream calls a second",
            "Limits used by this key",
        ]
    )
    expect(page.locator("#charts canvas")).to_have_count(5)
    row = page.locator("#recent-rows tr").filter(has_text="POST /v1/chat/completions").first
    expect(row).to_contain_text("anthropic.claude-haiku-4.5")
    expect(row).to_contain_text("200")
    expect(page.locator("#live")).not_to_contain_text("quokka")


@pytest.mark.parametrize("api", ["chat", "messages", "responses"])
def test_limits_are_shown_as_the_last_answer_named_them(make_deployment: Any, open_console: Opener, api: str) -> None:
    page = open_console(make_deployment({"PROXY_API_KEYS": "", "PROXY_ACCESS__REQUESTS_PER_MINUTE": "40"}))
    page.get_by_label("API", exact=True).select_option(api)
    say(page, "Hi")
    page.get_by_role("link", name="Live").click()
    expect(page.locator(".limits")).to_contain_text("requests: 1 of 40 a minute")


NUMBERS = """async () => {
    const { sampleOf, rate, quantile } = await import("./js/metrics.js");
    const text = (n) => `# HELP x y
proxy_requests_total{model="m",route="/chat/completions",status="200"} ${6 * n}
proxy_requests_total{model="m",route="/chat/completions",status="502"} ${2 * n}
proxy_requests_total{model="m",route="/chat/completions",status="499"} ${n}
proxy_requests_total{model="none",route="/console",status="404"} ${100 * n}
proxy_end_notice_seconds_bucket{le="0.1",source="feed"} ${5 * n}
proxy_end_notice_seconds_bucket{le="0.2",source="feed"} ${10 * n}
proxy_end_notice_seconds_bucket{le="+Inf",source="feed"} ${10 * n}
proxy_jobs_in_flight 3.0`;
    const [one, two] = [sampleOf(text(1), 0), sampleOf(text(3), 10_000)];
    return [two.jobs, rate(one, two, "requests"), rate(one, two, "errors"), rate(two, one, "errors"),
        quantile(one.delays, two.delays, 0.75), quantile(two.delays, two.delays, 0.5)];
}"""


def test_rates_and_shares_are_counted_as_prometheus_does(page: Page) -> None:
    jobs, requests, errors, restarted, delay, none = page.evaluate(NUMBERS)
    assert (jobs, requests, errors, restarted, none) == (3, 1.8, 0.4, None, None)
    assert delay == pytest.approx(0.15)


# ---------------------------------------------------------------- snippets

TRICKY = 'It\'s "quoted" $HOME `ls` \\n back\\slash\nnew line é 👩‍👩‍👧 \u2028 </script> EOF'


def copied(page: Page, name: str) -> str:
    last_turn(page).get_by_role("button", name=f"Copy as {name}").click()
    expect(page.get_by_role("status").filter(has_text=f"Copied as {name}")).to_have_count(1)
    return str(page.evaluate("navigator.clipboard.readText()"))


@pytest.fixture(params=[True, False], ids=["streamed", "whole"])
def sent(request: pytest.FixtureRequest, page: Page) -> Page:
    page.get_by_role("button", name="Weather example").click()
    page.get_by_label("Tool choice").select_option("none")
    page.get_by_label("Temperature", exact=True).fill("0.5")
    if not request.param:
        page.get_by_label("Stream").uncheck()
    say(page, f"{TRICKY} {script(text='Said by the sandbox.')}")
    return page


def run(command: list[str], **options: Any) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60, env=environment, **options
    ).stdout


def last_two_agree(deployment: Deployment) -> bool:
    one, other = ({**body, "tags": None} for body in deployment.submissions()[-2:])
    return one == other


def test_the_curl_snippet_sends_the_same_request(open_deployment: Deployment, sent: Page) -> None:
    assert "sandbox" in run(["sh", "-c", copied(sent, "curl")])
    assert last_two_agree(open_deployment)


def test_the_python_snippet_sends_the_same_request(open_deployment: Deployment, sent: Page) -> None:
    assert "Said by the sandbox." in run([sys.executable, "-c", copied(sent, "Python")])
    assert last_two_agree(open_deployment)


STAND_IN = """export default class {
  constructor(options) {
    const create = async (request) => {
      console.log(JSON.stringify({ options, request }));
      return Object.assign((async function* () {})(), { choices: [{ message: null }] });
    };
    this.chat = { completions: { create } };
  }
}"""


def test_the_node_snippet_hands_the_same_request_to_the_library(
    open_deployment: Deployment, sent: Page, tmp_path: Path
) -> None:
    library = tmp_path / "node_modules/openai"
    library.mkdir(parents=True)
    (library / "package.json").write_text('{"type": "module", "exports": "./index.js"}')
    (library / "index.js").write_text(STAND_IN)
    (tmp_path / "snippet.mjs").write_text(copied(sent, "Node"), "utf-8")
    node = compute_driver_executable()[0]
    handed = json.loads(run([node, "snippet.mjs"], cwd=tmp_path).split("\n")[0])
    assert handed["options"] == {"baseURL": f"{open_deployment.url}/v1", "apiKey": "any-key"}
    sent.locator("#wire-toggle").click()
    assert handed["request"] == json.loads(sent.locator("#wire-request").text_content() or "")
