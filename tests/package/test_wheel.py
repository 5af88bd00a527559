"""The built wheel in an environment of its own, from an empty folder: nothing of the checkout may be needed."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([*PIP, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment that has the wheel and its locked dependencies, and nothing else."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True, with_pip=False)
    pip = (*PIP, "--python", str(home), "install")
    subprocess.run([*pip, "--require-hashes", "-r", ROOT / "requirements.txt"], check=True)
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True)
    return home / "bin"


@contextmanager
def serving(scripts: Path, folder: Path, *arguments: str, **environ: str) -> Iterator[str]:
    """The command of the package's name, started in an empty folder with an empty home. Gives its URL."""
    started = subprocess.Popen(
        [scripts / "narrative-chat-proxy", *arguments],
        cwd=folder,
        env={"HOME": str(folder), "PATH": os.defpath, "PROXY_PORT": "0", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stdout
        url = None
        while not url:
            line = started.stdout.readline()
            assert line, started.communicate()[1]
            url = re.search(r"base URL +(http://\S+)/v1", line)
        yield url[1]
    finally:
        started.send_signal(signal.SIGTERM)
        _, errors = started.communicate(timeout=60)
    assert started.returncode == 0, errors


def read(url: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"content-type": "application/json", "authorization": "Bearer any-key"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return bytes(answer.read())


def test_the_wheel_has_what_the_server_reads_and_nothing_of_the_repository(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = {file.relative_to(ROOT).as_posix() for file in (ROOT / "proxy").rglob("*") if file.is_file()}
    assert {name for name in files if not name.endswith(".pyc")} <= names
    assert {f"proxy/config/{file.name}" for file in (ROOT / "config").iterdir()} <= names
    assert {"proxy/py.typed", "proxy/console/static/index.html", "proxy/config/proxy.toml"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"proxy", "narrative_chat_proxy"}


def test_the_command_of_the_packages_name_serves_on_the_sandbox(scripts: Path, tmp_path: Path) -> None:
    hello = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": "Hello!"}]}
    with serving(scripts, tmp_path) as url:
        assert json.loads(read(f"{url}/v1/chat/completions", hello))["choices"][0]["message"]["content"]
        assert json.loads(read(f"{url}/v1/messages", {**hello, "max_tokens": 50}))["content"]
        assert json.loads(read(f"{url}/v1/responses", {"model": hello["model"], "input": "Hello!"}))["output"]
        assert len(json.loads(read(f"{url}/v1/models"))["data"]) >= 5
        page = read(f"{url}/console/").decode()
        for part in re.findall(r'(?:src|href)="([^":]+\.(?:js|css))"', page):
            assert read(f"{url}/console/{part.removeprefix('/console/')}")
        assert b"proxy_requests_total" in read(f"{url}/metrics")


def test_the_other_commands_need_no_checkout(scripts: Path, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "PATH": os.defpath}

    def run(*arguments: str) -> str:
        return subprocess.run(arguments, cwd=tmp_path, env=environ, check=True, capture_output=True, text=True).stdout

    assert "Settings: fine." in run(scripts / "narrative-proxy", "check")
    secret = run(scripts / "narrative-proxy", "keys", "create", "--name", "app").strip()
    assert "app" in run(scripts / "narrative-proxy", "keys", "list")
    environ["NARRATIVE_PROXY_KEY"] = secret
    with serving(scripts, tmp_path, "serve", "--sandbox", PROXY_SERVER__ALLOW_UNAUTHENTICATED="never") as url:
        assert f"ANTHROPIC_BASE_URL={url} " in run(
            scripts / "narrative-proxy", "launch", "--url", url, "--print", "claude"
        )
