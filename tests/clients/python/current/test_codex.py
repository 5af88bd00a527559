"""Codex, the real one: it makes and changes a file by its tools, at one job for each turn of the model, whatever breaks."""

import json
import subprocess
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
KNOWN_MODEL = "gpt-5.5"
"""One that Codex knows: it gets more tools than others, some of them not of JSON."""
RESPONSES = "/v1/responses"
CONFIG = """\
model = "{model}"
model_provider = "narrative"
model_context_window = 200000
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.narrative]
name = "Narrative"
base_url = "{base_url}"
env_key = "PROXY_API_KEY"
wire_api = "responses"
"""


@pytest.fixture(scope="module")
def slow_proxy() -> Iterator[Proxy]:
    """One whose jobs take long."""
    with start_proxy(PROXY_SANDBOX__RUNNING_S=str(SILENCE_S)) as proxy:
        yield proxy


def codex(
    home: Path, base_url: str, prompt: str, *options: str, model: str = MODEL
) -> "subprocess.CompletedProcess[str]":
    settings = home / "codex"
    settings.mkdir(exist_ok=True)
    (settings / "config.toml").write_text(CONFIG.format(model=model, base_url=base_url))
    environ = {"CODEX_HOME": str(settings), "PROXY_API_KEY": Proxy.key}
    arguments = ["codex", "exec", *options, "--skip-git-repo-check", "--json", prompt]
    return run_agent(home, arguments, environ)


def events_of(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def command(text: str) -> dict[str, Any]:
    return {"calls": [{"name": "exec_command", "arguments": {"cmd": text}}]}


def patch(*lines: str) -> dict[str, Any]:
    text = "\n".join(["*** Begin Patch", *lines, "*** End Patch"])
    return {"calls": [{"name": "apply_patch", "arguments": {"input": text}}]}


COMMANDS = [command("echo 'one = 1' > numbers.py"), command("sed -i s/one/two/ numbers.py"), command("cat numbers.py")]
PATCHES = [
    patch("*** Add File: numbers.py", "+one = 1"),
    patch("*** Update File: numbers.py", "@@", "-one = 1", "+two = 1"),
    command("cat numbers.py"),
]


def does_its_work(home: Path, proxy: Proxy | Replicas, base_url: str, key: str, model: str = MODEL) -> None:
    """A job too many would be seen, since each job is the model's next turn."""
    before = proxy.jobs()
    attempts = [*(COMMANDS if model == MODEL else PATCHES), {"text": f"Done with {key}."}]
    done = codex(home, base_url, f"Please help. {script(key=key, attempts=attempts)}", model=model)
    events = events_of(done)
    assert (home / "work/numbers.py").read_text() == "two = 1\n", done.stdout
    said = [event["item"] for event in events if event["type"] == "item.completed"]
    assert said[-1]["text"] == f"Done with {key}."
    assert (events[-1]["type"], events[-1]["usage"]["input_tokens"] > 0) == ("turn.completed", True)
    assert proxy.jobs() == before + len(attempts)


def test_it_makes_and_changes_a_file(tmp_path: Path, proxy: Proxy, request_id: str) -> None:
    does_its_work(tmp_path, proxy, proxy.base_url, request_id)


def test_custom_tools(tmp_path: Path, request_id: str) -> None:
    with start_proxy(PROXY_CHAT__DEFAULT_MODEL=MODEL) as proxy:
        does_its_work(tmp_path, proxy, proxy.base_url, request_id, KNOWN_MODEL)


def test_structured_output(tmp_path: Path, proxy: Proxy) -> None:
    schema = {"type": "object", "properties": {"population": {"type": "integer"}}, "required": ["population"]}
    (tmp_path / "schema.json").write_text(json.dumps({**schema, "additionalProperties": False}))
    options = ["--output-schema", str(tmp_path / "schema.json")]
    *_, said, _ = events_of(codex(tmp_path, proxy.base_url, "Describe Paris", *options))
    assert isinstance(json.loads(said["item"]["text"])["population"], int)


def test_what_it_adds_to_a_message_is_not_taken_for_the_users(tmp_path: Path, proxy: Proxy) -> None:
    *_, said, _ = events_of(codex(tmp_path, proxy.base_url, "Hello there"))
    assert "sandbox" in said["item"]["text"]


def test_silent_jobs_are_waited_for(tmp_path: Path, slow_proxy: Proxy, request_id: str) -> None:
    does_its_work(tmp_path, slow_proxy, slow_proxy.base_url, request_id)


@pytest.mark.parametrize(
    "cut",
    [
        ("slow_proxy", b"HTTP/1.1"),
        ("slow_proxy", b"event: response.in_progress"),
        ("pacing_proxy", b"event: response.output_item.done"),
        ("pacing_proxy", b"event: response.completed"),
    ],
)
def test_cut_connections_cost_no_job(
    tmp_path: Path, request: pytest.FixtureRequest, request_id: str, cut: tuple[str, bytes]
) -> None:
    """Ahead of the answer, while its job runs, in the middle of a call, and before the last event."""
    deployment, mark = cut
    proxy: Proxy = request.getfixturevalue(deployment)
    with relayed(proxy.base_url, RESPONSES, mark, mark) as relay:
        does_its_work(tmp_path, proxy, relay.url, request_id)
    assert relay.cut == 2


def test_a_replica_that_is_killed_costs_no_job(tmp_path: Path, request_id: str) -> None:
    with killed_at(RESPONSES, b"event: response.in_progress", max(SILENCE_S, 1)) as replicas:
        does_its_work(tmp_path, replicas, f"{replicas.url}/v1", request_id)
        assert replicas.killed


def test_its_other_tools(tmp_path: Path, proxy: Proxy, request_id: str) -> None:
    """Several calls at once, one of which fails; an image; a tool in a namespace; and a session that goes on."""
    before = proxy.jobs()
    image = save_picture(tmp_path)
    seen = {"name": "view_image", "arguments": {"path": image}}
    agent = {"name": "multi_agent_v1__spawn_agent", "arguments": {"message": "Hello there"}}
    steps = [{"calls": [seen, *command("exit 3")["calls"]]}, {"calls": [agent]}, {}]
    events = events_of(codex(tmp_path, proxy.base_url, script(key=request_id, attempts=steps)))
    said = next(event["item"] for event in reversed(events) if event["type"] == "item.completed")
    for output in ("view_image returned: [input_image", "exited with code 3", "spawn_agent returned: "):
        assert output in said["text"]
    assert proxy.jobs() >= before + len(steps)
    *_, said, _ = events_of(codex(tmp_path, proxy.base_url, "The sky is blue", "resume", "--last"))
    assert said["item"]["text"] == "You said: The sky is blue"


def test_a_job_that_fails_is_reported_and_costs_no_second_one(tmp_path: Path, proxy: Proxy, request_id: str) -> None:
    before = proxy.jobs()
    steps = [COMMANDS[0], {"fail": "The GPU melted"}, {"text": "A second job."}]
    events = events_of(codex(tmp_path, proxy.base_url, script(key=request_id, attempts=steps)))
    assert events[-1]["type"] == "turn.failed"
    assert "The GPU melted" in events[-1]["error"]["message"]
    assert proxy.jobs() == before + 2
