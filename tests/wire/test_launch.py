"""Clients started by `launch`, and by the lines that the server prints: programs in their place that show what they were given."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.cli.launch import KEY_VARIABLE
from tests.conftest import Deployment
from tests.processes import command, run

KEY = {KEY_VARIABLE: "test-key"}
SHOW = f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n"


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder, in PATH, of programs called as the clients are."""
    for name in ("claude", "codex", "other"):
        (tmp_path / name).write_text(SHOW, "utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def shown(out: str) -> tuple[list[str], dict[str, str]]:
    arguments, environment = json.loads(out)
    return arguments, environment


def test_a_client_is_started_with_what_points_it_here(deployment: Deployment, clients: Path) -> None:
    given = ("launch", "--url", deployment.url, "claude", "--print", "-p", "Hello!")
    ended = run(*given, **KEY, ANTHROPIC_API_KEY="own", EDITOR="vi")
    assert ended.returncode == 0, ended.stderr
    arguments, environment = shown(ended.stdout)
    assert arguments[-3:] == ["--print", "-p", "Hello!"]
    assert environment["ANTHROPIC_BASE_URL"] == deployment.url
    assert environment["EDITOR"] == "vi"
    assert "ANTHROPIC_API_KEY" not in environment  # the user's own key is not sent to the proxy


@pytest.mark.parametrize("program", ["claude", "codex", "other"])
def test_the_printed_command_does_the_same(deployment: Deployment, clients: Path, program: str) -> None:
    given = ("launch", "--url", f"{deployment.url}/v1/", "--model", "o4-mini", program, "two words")
    started = shown(run(*given, **KEY, ANTHROPIC_API_KEY="own").stdout)
    line = run(given[0], "--print", *given[1:], **KEY).stdout
    environ = command(**KEY, ANTHROPIC_API_KEY="own")["env"]
    pasted = subprocess.run(["sh", "-c", line], env=environ, capture_output=True, text=True, timeout=60, check=True)
    arguments, environment = shown(pasted.stdout)
    assert arguments == started[0]
    assert "two words" in arguments
    assert {k: v for k, v in environment.items() if v != started[1].get(k)}.keys() <= {"_", "SHLVL", "PWD", "OLDPWD"}
    assert "ANTHROPIC_API_KEY" not in environment


def test_a_key_that_is_not_accepted_is_said_before_anything_starts(deployment: Deployment, clients: Path) -> None:
    ended = run("launch", "--url", deployment.url, "claude")
    assert ended.returncode == 2
    assert KEY_VARIABLE in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1", "nonsense"])
def test_a_proxy_that_does_not_answer_is_a_clear_message(url: str) -> None:
    ended = run("launch", "--url", url, "claude")
    assert ended.returncode == 2
    assert "no proxy answers" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_client_that_is_not_installed_is_a_clear_message(deployment: Deployment) -> None:
    ended = run("launch", "--url", deployment.url, "no-such-program", **KEY)
    assert (ended.returncode, "no-such-program is not installed" in ended.stderr) == (2, True)
