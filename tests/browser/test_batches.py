"""The page of batches: progress, counts, results, cancellation, and a file that is wrong."""

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests.batching import chat, ended, line, start
from tests.browser.conftest import Opener
from tests.conftest import Deployment
from tests.scripts import script


def test_batches_show_their_progress_and_give_their_rows(open_deployment: Deployment, open_console: Opener) -> None:
    http = open_deployment.http
    http.headers.pop("authorization", None)
    page = open_console(view="batches")
    expect(page.locator("#batch-rows")).to_contain_text("None yet")
    lines = [line("good"), line("bad", chat(model="nobody"))]
    batch = ended(http, start(http, lines)["id"])
    row = page.locator("#batch-rows tr", has_text=batch["id"])
    expect(row).to_contain_text("completed")
    expect(row).to_contain_text("2 of 2")
    expect(row.get_by_role("progressbar")).to_have_attribute("value", "2")
    for name, custom_id in (("Results", "good"), ("Errors", "bad")):
        with page.expect_download() as download:
            row.get_by_role("button", name=name).click()
        assert download.value.suggested_filename == f"{batch['id']}_{name.lower()}.jsonl"
        assert json.loads(Path(download.value.path()).read_text())["custom_id"] == custom_id


def test_a_batch_is_cancelled(make_deployment: Any, open_console: Opener) -> None:
    deployment: Deployment = make_deployment({"PROXY_API_KEYS": "", "PROXY_BATCHES__MAX_IN_FLIGHT": "1"})
    deployment.http.headers.pop("authorization", None)
    start(deployment.http, [line(f"c{number}", chat(script(delay=0.5))) for number in range(100)])
    page = open_console(deployment, view="batches")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#batch-rows")).to_contain_text("cancelled")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


def test_a_file_that_is_wrong_names_its_lines(make_deployment: Any, open_console: Opener) -> None:
    deployment: Deployment = make_deployment({"PROXY_API_KEYS": ""})
    deployment.http.headers.pop("authorization", None)
    ended(deployment.http, start(deployment.http, [line("a"), line("a")])["id"])
    page = open_console(deployment, view="batches")
    expect(page.locator("#batch-rows")).to_contain_text("line 2: duplicate_custom_id")
