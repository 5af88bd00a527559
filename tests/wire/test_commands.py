"""The commands as a new user meets them: real processes."""

import itertools
import signal
import subprocess
import tomllib
from contextlib import ExitStack

import httpx
import pytest

from tests.conftest import Deployment
from tests.processes import command, run, running
from tests.redis_server import serve_redis

PLANE = "fef9904e-d263-4930-85f7-1e28cce40f89"
HELLO = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": "Hello!"}]}


def test_serve_with_the_sandbox_answers_at_the_address_it_prints_and_ends_on_sigterm() -> None:
    with running("serve", "--sandbox", "--port", "0") as (url, process):
        answer = httpx.post(f"{url}/v1/chat/completions", json=HELLO, timeout=30)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]
    assert process.returncode == 0


def test_without_a_command_it_serves_on_the_sandbox_where_nothing_is_configured() -> None:
    with running(PROXY_PORT="0") as (url, process):
        assert httpx.post(f"{url}/v1/chat/completions", json=HELLO, timeout=30).json()["choices"]
    assert process.returncode == 0


def test_without_a_command_it_serves_for_narrative_where_that_is_configured(deployment: Deployment) -> None:
    account = {"NARRATIVE_API_KEY": "k", "NARRATIVE_DATA_PLANE_ID": PLANE}
    before = deployment.jobs_submitted()
    with running(PROXY_PORT="0", NARRATIVE_ENVIRONMENT=deployment.sandbox_url, **account) as (url, _):
        assert httpx.post(f"{url}/v1/chat/completions", json=HELLO, timeout=30).status_code == 200
    assert deployment.jobs_submitted() == before + 1
    half = run(PROXY_PORT="0", NARRATIVE_API_KEY="k")
    assert (half.returncode, "NARRATIVE_DATA_PLANE_ID" in half.stderr) == (2, True)


def test_several_workers_serve_one_address() -> None:
    with running("serve", "--sandbox", "--port", "0", "--workers", "2") as (url, _):
        transport = httpx.HTTPTransport(retries=10)
        with httpx.Client(transport=transport, timeout=30) as client:
            assert client.post(f"{url}/v1/chat/completions", json=HELLO).status_code == 200


def words_after_curl(call: str, environ: dict[str, str]) -> list[str]:
    """What the shell makes of a call that a user pastes, whether or not there is a curl."""
    script = "curl() { printf '%s\\0' \"$@\"; }\n" + call
    shown = subprocess.run(["sh", "-c", script], env=environ, capture_output=True, text=True, timeout=60, check=True)
    return shown.stdout.split("\0")[:-1]


def test_the_printed_call_works_as_it_is() -> None:
    settings = {"PROXY_API_KEYS": "sekret", "KEY": "sekret"}
    started = subprocess.Popen(
        **command("serve", "--sandbox", "--port", "0", **settings), stdout=subprocess.PIPE, bufsize=1
    )
    try:
        assert started.stdout
        lines = list(itertools.islice(started.stdout, 7))
        call = "".join(lines[[line.lstrip().startswith("curl") for line in lines].index(True) :])
        url, *options = words_after_curl(call, settings)
        headers = [value for flag, value in itertools.pairwise(options) if flag == "-H"]
        [body] = [value for flag, value in itertools.pairwise(options) if flag == "-d"]
        answer = httpx.post(url, headers=[header.split(": ", 1) for header in headers], content=body, timeout=30)
        assert answer.json()["choices"]
    finally:
        started.terminate()
        started.communicate(timeout=60)


def test_the_printed_lines_point_clients_here() -> None:
    settings = {"PROXY_API_KEYS": "sekret", "KEY": "sekret"}
    with running("serve", "--sandbox", "--port", "0", **settings) as (url, process):
        assert process.stdout
        lines = "".join(itertools.islice(process.stdout, 9))
    openai, claude, codex = (lines.split(f"  {name}  ")[1] for name in ("OpenAI SDKs ", "Claude Code ", "Codex       "))
    stubs = """claude() { printf '%s\\n' "$ANTHROPIC_BASE_URL" "$ANTHROPIC_AUTH_TOKEN" "$@"; }
        codex() { printf '%s\\n' "$NARRATIVE_PROXY_KEY" "$@"; }
        """
    script = f'{openai.splitlines()[0]}\necho "$OPENAI_BASE_URL $OPENAI_API_KEY"\n{claude.splitlines()[0]}\n{codex}'
    shown = subprocess.run(["sh", "-c", stubs + script], env=settings, capture_output=True, text=True, check=True)
    first, *words = shown.stdout.splitlines()
    assert first == f"{url}/v1 sekret"
    assert words[:2] == [url, "sekret"]
    assert words.count("sekret") == 2
    [provider] = [word for word in words if word.startswith("model_providers.narrative=")]
    assert tomllib.loads(provider)["model_providers"]["narrative"]["base_url"] == f"{url}/v1"


@pytest.mark.parametrize("shared", [False, True])
def test_several_workers_say_when_they_share_nothing(shared: bool) -> None:
    with ExitStack() as stack:
        state = {"PROXY_STATE__URL": stack.enter_context(serve_redis())} if shared else {}
        arguments = ("serve", "--sandbox", "--port", "0", "--workers", "2")
        _, process = stack.enter_context(running(*arguments, **state))
        process.send_signal(signal.SIGTERM)
        assert process.stderr
        assert ("2 workers without PROXY_STATE__URL" in process.stderr.read()) is not shared


def test_the_sandbox_alone_serves_narratives_api() -> None:
    with running("sandbox", "--port", "0") as (url, _):
        answer = httpx.get(f"{url}/jobs", headers={"authorization": "Bearer any"})
        assert answer.json()["records"] == []


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"NARRATIVE_API_KEY": "k"}, "NARRATIVE_DATA_PLANE_ID"),
        ({"NARRATIVE_API_KEY": "k", "NARRATIVE_DATA_PLANE_ID": PLANE, "PROXY_HOST": "0.0.0.0"}, "PROXY_API_KEYS"),
        ({"PROXY_API_KEYS": "k"}, "NARRATIVE_API_KEY"),
        ({"PROXY_JOBS__DEADLINE_S": "soon"}, "PROXY_JOBS__DEADLINE_S"),
        ({"PROXY_CHAT__MODELS_FILE": "/nowhere/models.toml"}, "models.toml"),
    ],
)
def test_a_missing_or_wrong_setting_is_a_clear_message_and_exit_code_2(environ: dict[str, str], named: str) -> None:
    for arguments in (("serve", "--port", "0"), ("check",)):
        ended = run(*arguments, **environ)
        assert ended.returncode == 2
        assert named in ended.stderr
        assert "Traceback" not in ended.stderr


def test_variables_of_others_do_not_stop_the_start() -> None:
    """Kubernetes sets the first two for a Service called `proxy`."""
    others = {"PROXY_PORT": "tcp://10.0.0.7:8080", "PROXY_SERVICE_HOST": "10.0.0.7", "PROXY_API_KEY": "k"}
    with running("serve", "--sandbox", "--port", "0", **others) as (url, process):
        assert httpx.get(f"{url}/readyz").status_code == 200
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert "PROXY_PORT, PROXY_SERVICE_HOST: ignored" in err
    assert "PROXY_API_KEY is no setting and has no effect; did you mean PROXY_API_KEYS?" in err


def test_check_says_that_all_is_well(deployment: Deployment) -> None:
    ended = run(
        "check", NARRATIVE_API_KEY="k", NARRATIVE_DATA_PLANE_ID=PLANE, NARRATIVE_ENVIRONMENT=deployment.sandbox_url
    )
    assert ended.returncode == 0, ended.stderr
    assert "accepts the API key" in ended.stdout


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"NARRATIVE_API_KEY": "invalid-key"}, "API key"),
        ({"NARRATIVE_ENVIRONMENT": "http://127.0.0.1:1"}, "127.0.0.1:1"),
    ],
)
def test_check_says_in_plain_words_what_is_wrong_with_the_credentials(
    deployment: Deployment, environ: dict[str, str], named: str
) -> None:
    fine = {"NARRATIVE_API_KEY": "k", "NARRATIVE_DATA_PLANE_ID": PLANE, "NARRATIVE_ENVIRONMENT": deployment.sandbox_url}
    ended = run("check", **{**fine, **environ})
    assert ended.returncode == 2
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr


def test_health_asks_the_running_server() -> None:
    with running("serve", "--sandbox", "--port", "0") as (url, _):
        assert run("health", PROXY_PORT=url.rsplit(":", 1)[1]).returncode == 0
    assert run("health", PROXY_PORT="1").returncode == 1


@pytest.mark.parametrize("arguments", [(), ("serve",), ("sandbox",), ("check",), ("health",), ("launch",)])
def test_help_reads_well(arguments: tuple[str, ...]) -> None:
    shown = run(*arguments, "--help").stdout
    assert shown.startswith("Usage: ")
    assert "Options:" in shown
