"""A real browser at a real console. Whatever a test does, nothing may leave the origin and no rule of the page's policy may be met."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.browser.chromium import ARGUMENTS, find_chromium
from tests.conftest import Deployment

expect.set_options(timeout=15_000)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = find_chromium()
    assert path, "no browser: `make test-browser` sees to it that there is one"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def open_deployment() -> Iterator[Deployment]:
    """One that needs no key, as `make run` gives."""
    with ExitStack() as stack:
        # A failed request is sent again here within seconds, and its job is to be a new one.
        yield Deployment(stack, {"PROXY_API_KEYS": "", "PROXY_STATE__REPLAY_FAILURES_S": "0"}, {})


class Watched:
    """What a browser context did that it should not have done."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.faults: list[str] = []
        self._origin = origin
        context.on("request", self._request)
        context.on("console", self._console)
        context.on("weberror", lambda error: self.faults.append(f"uncaught: {error.error}"))

    def _request(self, request: Request) -> None:
        if not request.url.startswith((f"{self._origin}/", "data:")):
            self.faults.append(f"left the origin: {request.url}")

    def _console(self, message: ConsoleMessage) -> None:
        # A browser logs every answer of 400 and above by itself.
        if message.type == "error" and not message.text.startswith("Failed to load resource: the server responded"):
            self.faults.append(f"logged: {message.text}")


Opener = Callable[..., Page]


@pytest.fixture
def open_console(browser: Browser, open_deployment: Deployment) -> Iterator[Opener]:
    """Opens the console in a context of its own: `open_console(deployment, view="live", viewport=…)`."""
    with ExitStack() as stack:
        watched = []

        def open_(deployment: Deployment = open_deployment, view: str = "", **options: Any) -> Page:
            context = stack.enter_context(browser.new_context(**options))
            context.grant_permissions(["clipboard-read", "clipboard-write"], origin=deployment.url)
            watched.append(Watched(context, deployment.url))
            page = context.new_page()
            page.goto(f"{deployment.url}/console/{view and '#' + view}")
            return page

        yield open_
    assert [fault for each in watched for fault in each.faults] == []


@pytest.fixture
def page(open_console: Opener) -> Page:
    """The playground of a server that needs no key, with its models listed."""
    page = open_console()
    expect(page.get_by_label("Model", exact=True)).to_have_value("claude-4-5-haiku")
    return page


def say(page: Page, text: str) -> None:
    """Send a message, and wait until its answer is complete."""
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()
    settle(page)


def settle(page: Page) -> None:
    """Wait until nothing is under way and the last turn has its footer."""
    expect(page.locator("#turns")).to_have_attribute("aria-busy", "false")
    expect(page.locator(".turn.assistant").last.locator(".turn-foot")).to_be_visible()


def last_turn(page: Page) -> Any:
    return page.locator(".turn.assistant").last
