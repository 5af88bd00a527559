"""Claude Code, the real one: it writes, edits and shows a file, at one job for each turn of the model, whatever breaks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli import run_agent, save_picture
from conftest import Proxy, start_proxy
from relay import relayed
from replicas import Replicas, killed_at
from scenes import SILENCE_S

from tests.scripts import script

MODEL = "claude-4-5-sonnet"
MESSAGES = "/v1/messages"
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
    # Without it the program does not let root do without permissions, as tests in containers run.
    "IS_SANDBOX": "1",
}
SETTINGS = {
    "ANTHROPIC_MODEL": MODEL,
    "ANTHROPIC_DEFAULT_OPUS_MODEL": MODEL,
    "ANTHROPIC_DEFAULT_SONNET_MODEL": MODEL,
    "ANTHROPIC_DEFAULT_HAIKU_MODEL": "claude-4-5-haiku",
    "CLAUDE_CODE_AUTO_COMPACT_WINDOW": "200000",
}
NO_FALLBACK = {"CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1"}


@pytest.fixture(scope="module")
def slow_proxy() -> Iterator[Proxy]:
    """One whose jobs take long, and whose streams begin meanwhile."""
    hold_s = str(min(SILENCE_S / 4, 15))
    settings = {"PROXY_SANDBOX__RUNNING_S": str(SILENCE_S), "PROXY_MESSAGES__HOLD_S": hold_s}
    with start_proxy(**settings) as proxy:
        yield proxy


def claude(home: Path, url: str, prompt: str, *options: str, **environ: str) -> dict[str, Any]:
    """What the program says at its end. Without options it may do everything."""
    options = options or ("--permission-mode", "bypassPermissions")
    arguments = ["claude", "-p", prompt, "--output-format", "json", *options]
    environ = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": Proxy.key, **SETTINGS, **QUIET, **environ}
    done = run_agent(home, arguments, environ)
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def turns(file: Path, key: str) -> list[dict[str, Any]]:
    """What the model does: three calls, and an answer. A job too many would be seen, since each job is the next turn."""
    path = str(file)
    return [
        {"calls": [{"name": "Write", "arguments": {"file_path": path, "content": "one = 1\n"}}]},
        {"calls": [{"name": "Edit", "arguments": {"file_path": path, "old_string": "one", "new_string": "two"}}]},
        {"calls": [{"name": "Read", "arguments": {"file_path": path}}]},
        {"text": f"Done with {key}."},
    ]


def does_its_work(home: Path, proxy: Proxy | Replicas, url: str, key: str, *options: str, **environ: str) -> None:
    file, before = home / "work/numbers.py", proxy.jobs()
    steps = turns(file, key)
    result = claude(home, url, f"Please help. {script(key=key, attempts=steps)}", *options, **environ)
    assert (result["is_error"], result["result"]) == (False, f"Done with {key}."), result
    assert file.read_text() == "two = 1\n"
    assert proxy.jobs() == before + len(steps)
    assert result["usage"]["input_tokens"] > 0


@pytest.mark.parametrize(
    "options", [(), ("--permission-mode", "acceptEdits"), ("--allowedTools", "Write", "Edit", "Read")]
)
def test_it_writes_and_edits_a_file(tmp_path: Path, proxy: Proxy, request_id: str, options: tuple[str, ...]) -> None:
    does_its_work(tmp_path, proxy, proxy.url, request_id, *options)


def test_structured_output(tmp_path: Path, proxy: Proxy) -> None:
    schema = {"type": "object", "properties": {"population": {"type": "integer"}}, "required": ["population"]}
    result = claude(tmp_path, proxy.url, "Describe Paris", "--json-schema", json.dumps(schema))
    assert isinstance(result["structured_output"]["population"], int)


def test_what_it_adds_to_a_message_is_not_taken_for_the_users(tmp_path: Path, proxy: Proxy) -> None:
    result = claude(tmp_path, proxy.url, "Hello there")
    assert result["num_turns"] == 1
    assert "sandbox" in result["result"]


def test_silent_jobs_are_waited_for(tmp_path: Path, slow_proxy: Proxy, request_id: str) -> None:
    does_its_work(tmp_path, slow_proxy, slow_proxy.url, request_id)


@pytest.mark.parametrize("fallback", [{}, NO_FALLBACK])
@pytest.mark.parametrize(
    "cut",
    [("slow_proxy", b"HTTP/1.1"), ("slow_proxy", b"event: ping"), ("pacing_proxy", b"event: content_block_stop")],
)
def test_cut_connections_cost_no_job(
    tmp_path: Path, request: pytest.FixtureRequest, request_id: str, cut: tuple[str, bytes], fallback: dict[str, str]
) -> None:
    """Ahead of the answer, while its job runs, and in the middle of a call."""
    deployment, mark = cut
    proxy: Proxy = request.getfixturevalue(deployment)
    with relayed(proxy.url, MESSAGES, mark, mark) as relay:
        does_its_work(tmp_path, proxy, relay.url, request_id, **fallback)
    assert relay.cut == 2
    assert relay.requests >= 6


def test_a_replica_that_is_killed_costs_no_job(tmp_path: Path, request_id: str) -> None:
    with killed_at(MESSAGES, b"event: ping", max(SILENCE_S, 2)) as replicas:
        does_its_work(tmp_path, replicas, replicas.url, request_id)
        assert replicas.killed


def test_its_other_tools(tmp_path: Path, proxy: Proxy, request_id: str) -> None:
    """Several calls at once, one of which fails; an image; a tool that is loaded later, and refused; and a session that goes on."""
    before = proxy.jobs()
    image = save_picture(tmp_path)
    read = {"name": "Read", "arguments": {"file_path": image}}
    fails = {"name": "Bash", "arguments": {"command": "exit 3", "description": "Fail"}}
    find = {"name": "ToolSearch", "arguments": {"query": "select:WebSearch", "max_results": 3}}
    search = {"name": "WebSearch", "arguments": {"query": "the weather"}}
    steps = [{"calls": [read, fails]}, {"calls": [find]}, {"calls": [search]}, {}]
    result = claude(tmp_path, proxy.url, script(key=request_id, attempts=steps))["result"]
    for output in ("Read returned: [image", "Bash failed: Exit code 3", "Tool loaded: WebSearch", "WebSearch failed: "):
        assert output in result
    assert proxy.jobs() == before + len(steps)
    permitted = ("--permission-mode", "bypassPermissions", "--continue")
    assert claude(tmp_path, proxy.url, "The sky is blue", *permitted)["result"] == "You said: The sky is blue"


@pytest.mark.parametrize("deployment", ["proxy", "slow_proxy"])
@pytest.mark.parametrize("fallback", [{}, NO_FALLBACK])
def test_a_job_that_fails_is_reported_and_costs_no_second_one(
    tmp_path: Path, request: pytest.FixtureRequest, request_id: str, deployment: str, fallback: dict[str, str]
) -> None:
    """Before a stream has begun, and within it."""
    proxy: Proxy = request.getfixturevalue(deployment)
    before = proxy.jobs()
    steps = [turns(tmp_path / "work/numbers.py", request_id)[0], {"fail": "The GPU melted"}, {"text": "A second job."}]
    result = claude(tmp_path, proxy.url, script(key=request_id, attempts=steps), **fallback)
    assert result["is_error"]
    assert "The GPU melted" in result["result"]
    assert proxy.jobs() == before + 2
