"""Heroku's Procfile and app.json, and the systemd unit."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from proxy.settings import Settings
from tests.deploy.settings import settings_of
from tests.processes import command

ROOT = Path(__file__).parents[2]
APP = json.loads((ROOT / "app.json").read_text("utf-8"))
VALUES = {name: variable["value"] for name, variable in APP["env"].items() if "value" in variable}
UNIT = (ROOT / "deploy" / "systemd" / "narrative-proxy.service").read_text("utf-8")


def procfile() -> str:
    kind, _, line = (ROOT / "Procfile").read_text("utf-8").strip().partition(": ")
    assert kind == "web"
    return line


def test_the_procfile_serves_on_the_given_port() -> None:
    environ = command(
        **VALUES,
        PORT="0",
        PROXY_API_KEYS="k",
        NARRATIVE_API_KEY="k",
        NARRATIVE_DATA_PLANE_ID="fef9904e-d263-4930-85f7-1e28cce40f89",
        WEB_CONCURRENCY="4",  # which the buildpack sets
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )["env"]
    started = subprocess.Popen(
        ["bash", "-c", procfile()], cwd=ROOT, env=environ, start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    try:
        assert started.stdout
        found = next(found for line in started.stdout if (found := re.search(r"http://0\.0\.0\.0:(\d+)/v1", line)))
        assert int(found[1]) != Settings().server.port
        url = f"http://127.0.0.1:{found[1]}/v1/models"
        assert httpx.get(url, headers={"authorization": "Bearer k"}).status_code == 200
        assert httpx.get(url).status_code == 401
    finally:
        os.killpg(started.pid, signal.SIGTERM)  # all processes of a dyno get it
        started.communicate(timeout=60)


@pytest.mark.parametrize(
    ("environ", "url"),
    [({"REDIS_URL": "rediss://:p@h:1"}, "rediss://:p@h:1?ssl_cert_reqs=none"), ({}, ""), ({"REDIS_URL": ""}, "")],
)
def test_the_add_ons_redis_is_the_shared_state(environ: dict[str, str], url: str) -> None:
    line = procfile().replace("python -m proxy", "env #")
    shown = subprocess.run(["bash", "-c", line], env=environ, capture_output=True, text=True, timeout=60, check=True)
    given = dict(each.split("=", 1) for each in shown.stdout.splitlines())["PROXY_STATE__URL"]
    assert given == url
    state = settings_of({"PROXY_STATE__URL": given}).state
    assert (state.url.get_secret_value() if state.url else "") == url


def test_app_json_fits_the_routers_limits() -> None:
    settings = settings_of({**VALUES, "PROXY_API_KEYS": "k", "PROXY_SECRET_KEY": "k"})
    first_byte, idle, keep_alive, stop = 30, 55, 90, 30
    assert settings.messages.hold_s < first_byte
    assert 0 < settings.chat.keepalive_json_s < first_byte
    assert 0 < settings.chat.heartbeat_s < idle
    assert settings.server.keep_alive_s > keep_alive
    assert settings.server.shutdown_grace_s + 5 < stop


def test_app_json_has_what_heroku_knows_and_settings_only() -> None:
    assert APP.keys() <= {"name", "description", "keywords", "stack", "buildpacks", "addons", "formation", "env"}
    for name, variable in APP["env"].items():
        assert variable.keys() <= {"description", "value", "required", "generator"}
        section, _, setting = name.removeprefix("PROXY_").lower().partition("__")
        assert not setting or setting in type(getattr(Settings(), section)).model_fields


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    here = UNIT.replace("/opt/narrative-proxy/bin/narrative-proxy", sys.executable)
    for name, text, fine in (
        ("narrative.service", here, True),
        ("wrong.service", f"{here}\n[Service]\nKillModus=x\n", False),
    ):
        (tmp_path / name).write_text(text, "utf-8")
        told = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", tmp_path / name],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        mentioned = [line for line in told.stderr.splitlines() if name in line]
        assert (not mentioned) is fine, told.stderr


def test_the_unit_gives_the_server_time_and_a_place_for_its_state() -> None:
    told = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))
    assert int(told["TimeoutStopSec"]) >= Settings().server.shutdown_grace_s + 10
    assert told["StateDirectory"] == "narrative-proxy"
    environ = dict(word.split("=", 1) for word in told["Environment"].split())
    assert settings_of(environ).access.folder == "%S/narrative-proxy"
    assert told["RestartPreventExitStatus"] == "2"  # of `serve` with settings that are missing or wrong
