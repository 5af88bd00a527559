"""What a model, a tool or a user writes stays text, whatever it is made to look like."""

import json
import re

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import last_turn, say
from tests.conftest import Deployment
from tests.scripts import script

HTML = [
    "<img src=x onerror=window.pwned=1>",
    "<script>window.pwned=1</script>",
    "<svg onload=window.pwned=1><a xlink:href='javascript:window.pwned=1'>x</a></svg>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "<style>body{display:none}</style>",
    "<b style='background:url(https://evil.example/x)'>bold</b>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror=window.pwned=1&gt;'>",
    "<form action=https://evil.example><button formaction=javascript:window.pwned=1>go</button></form>",
]
MARKDOWN = [
    "[click](javascript:window.pwned=1)",
    "[click](JaVaScRiPt&colon;window.pwned=1)",
    "[click](data:text/html,<script>window.pwned=1</script>)",
    "![picture](https://evil.example/x.png)",
    '![picture](x"onerror="window.pwned=1)',
    "<javascript:window.pwned=1>",
    "```html\n<img src=x onerror=window.pwned=1>\n```",
    "| a |\n|---|\n| <img src=x onerror=window.pwned=1> |",
]
DANGEROUS = "img, script, svg, iframe, style, math, object, embed, link, base, meta, [onerror], [onload], [style*=url], [srcdoc]"


def is_harmless(page: Page, place: Locator) -> None:
    assert page.evaluate("window.pwned") is None
    assert place.locator(DANGEROUS).count() == 0
    for link in place.locator("a[href]").all():
        assert re.match(r"https?://|mailto:", link.get_attribute("href") or "")
        assert "noopener" in (link.get_attribute("rel") or "")


@pytest.mark.parametrize("payload", HTML)
def test_html_in_answer_and_reasoning_is_shown_as_it_was_written(page: Page, payload: str) -> None:
    page.get_by_label("Thinking").select_option("low")
    say(page, script(output={"reasoning": payload, "content": payload}))
    expect(last_turn(page).locator(".said")).to_contain_text(payload)
    last_turn(page).get_by_text("Reasoning").click()
    expect(last_turn(page).locator(".reasoning .plain")).to_have_text(payload)
    is_harmless(page, page.locator("#turns"))


@pytest.mark.parametrize("payload", MARKDOWN)
def test_markdown_cannot_run_anything_or_load_anything(page: Page, payload: str) -> None:
    say(page, script(text=payload))
    expect(last_turn(page).locator(".said")).not_to_be_empty()
    is_harmless(page, page.locator("#turns"))
    for link in last_turn(page).locator(".said a:not([href])").all():
        link.click()
    assert page.evaluate("window.pwned") is None


@pytest.mark.parametrize("payload", HTML)
def test_tool_names_and_arguments_and_results_stay_text(page: Page, payload: str) -> None:
    tool = {
        "name": payload[:120],
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
    page.get_by_label(re.compile("^Tools")).fill(json.dumps([{"type": "function", "function": tool}]))
    expect(page.locator("#tools-note")).to_have_text(f"Offers {payload[:120]}")
    page.get_by_label("Tool choice").select_option("required")
    say(page, f'What is the weather in "{payload.replace(chr(34), "")}"?')
    expect(last_turn(page).locator(".call h4")).to_have_text(payload[:120])
    last_turn(page).locator(".calls textarea").fill(payload)
    page.get_by_role("button", name="Send result").click()
    expect(page.locator(".turn.assistant")).to_have_count(2)
    expect(page.locator(".results pre")).to_have_text(payload)
    is_harmless(page, page.locator("#playground"))


def test_arguments_are_shown_as_text_even_where_they_are_no_json(page: Page) -> None:
    page.get_by_role("button", name="Weather example").click()
    say(page, script(calls=[{"name": "get_weather", "arguments": {"city": HTML[0]}}]))
    expect(last_turn(page).locator(".arguments")).to_contain_text(HTML[0])
    is_harmless(page, page.locator("#turns"))


def test_an_error_that_quotes_the_request_stays_text(page: Page) -> None:
    tools = [{"type": "function", "function": {"name": HTML[0], "parameters": {}}}] * 2
    page.get_by_label(re.compile("^Tools")).fill(json.dumps(tools))
    say(page, "Hi")
    expect(last_turn(page).get_by_role("alert")).to_contain_text("<img")
    is_harmless(page, page.locator("#playground"))


def test_the_raw_view_shows_everything_as_text(page: Page) -> None:
    say(page, script(text=HTML[0]))
    page.locator("#wire-toggle").click()
    expect(page.locator("#wire-job")).to_contain_text("<img")
    expect(page.locator("#wire-chunks")).to_contain_text("<img")
    is_harmless(page, page.locator("#wire"))


BLOCKED = """() => new Promise((resolve) => {
    document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
    const image = new Image();
    image.onload = image.onerror = () => setTimeout(resolve, 1000, "nothing was blocked");
    image.src = "https://evil.example/x.png";
})"""


def test_the_policy_holds_in_this_browser(browser: Browser, open_deployment: Deployment) -> None:
    """Without it, the tests above would prove less than they seem to."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{open_deployment.url}/console/")
        assert page.evaluate(BLOCKED) == "img-src"
