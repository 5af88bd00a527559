"""Heroku's Procfile and app.json, and the systemd unit."""

import json
import os
import re
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

_YES_OR_NO, _NUMBER, _UNITS = "yes|no", r"\d+", r"([\w-]+\.(target|service|socket) ?)+"
DIRECTIVES = {
    "Unit": {"Description": ".+", "After": _UNITS, "Wants": _UNITS},
    "Service": {
        "Type": "simple|exec|forking|oneshot|dbus|notify|idle",
        "ExecStart": r"/\S+( \S+)*",
        "EnvironmentFile": r"-?/\S+",
        "Environment": r"(\w+=\S* ?)+",
        "Restart": "no|always|on-success|on-failure|on-abnormal|on-abort|on-watchdog",
        "RestartSec": _NUMBER,
        "KillMode": "control-group|mixed|process|none",
        "TimeoutStopSec": _NUMBER,
        "RestartPreventExitStatus": r"(\d+ ?)+",
        "LimitNOFILE": r"\d+(:\d+)?",
        "StateDirectory": r"[\w-]+",
        "StateDirectoryMode": "0[0-7]{3}",
        "UMask": "0[0-7]{3}",
        "ProtectSystem": "yes|no|full|strict",
        "ProtectHome": "yes|no|read-only|tmpfs",
        "ProtectProc": "noaccess|invisible|ptraceable|default",
        "ProcSubset": "all|pid",
        "CapabilityBoundingSet": r"~?(CAP_\w+ ?)*",
        "RestrictAddressFamilies": r"none|~?(AF_\w+ ?)+",
        "SystemCallArchitectures": r"([a-z0-9-]+ ?)+",
        "SystemCallFilter": r"~?(@?[a-z0-9_-]+ ?)+",
        "SystemCallErrorNumber": "E[A-Z]+",
        **dict.fromkeys(
            (
                "DynamicUser",
                "PrivateTmp",
                "PrivateDevices",
                "PrivateUsers",
                "ProtectClock",
                "ProtectControlGroups",
                "ProtectHostname",
                "ProtectKernelLogs",
                "ProtectKernelModules",
                "ProtectKernelTunables",
                "NoNewPrivileges",
                "RestrictNamespaces",
                "RestrictRealtime",
                "RestrictSUIDSGID",
                "LockPersonality",
                "MemoryDenyWriteExecute",
            ),
            _YES_OR_NO,
        ),
    },
    "Install": {"WantedBy": _UNITS},
}
"""What the unit uses of systemd, with the values that the manual allows (systemd.unit, .service, .exec and .kill). A table,
since `systemd-analyze` cannot be installed with Python's packages."""


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


def complaints(unit: str) -> list[str]:
    """The lines of a unit that systemd would ignore or refuse, as far as `DIRECTIVES` knows it."""
    known: dict[str, str] = {}
    wrong = []
    for line in filter(None, map(str.strip, unit.splitlines())):
        if section := re.fullmatch(r"\[(\w+)\]", line):
            known = DIRECTIVES.get(section[1], {})
            fine = bool(known)
        else:
            name, _, value = line.partition("=")
            fine = line.startswith(("#", ";")) or bool(re.fullmatch(known.get(name, r"\b\B"), value))
        if not fine:
            wrong.append(line)
    return wrong


def test_each_line_of_the_unit_is_one_that_systemd_knows() -> None:
    assert complaints(UNIT) == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("KillMode=mixed", "KillModus=mixed"),
        ("KillMode=mixed", "KillMode=mixt"),
        ("PrivateTmp=yes", "PrivateTmp="),
        ("TimeoutStopSec=40", "TimeoutStopSec=forty"),
        ("LimitNOFILE=65536", "LimitNOFILE 65536"),
        ("ExecStart=/opt/narrative-proxy/bin/narrative-proxy serve", "ExecStart=bin/narrative-proxy serve"),
        ("Wants=network-online.target", "Wants=network-online"),
        ("WantedBy=multi-user.target", "ExecStart=/bin/true"),
        ("[Install]", "[Installation]"),
    ],
)
def test_a_line_that_systemd_does_not_know_is_found(line: str, wrong: str) -> None:
    assert UNIT.count(f"{line}\n") == 1
    assert wrong in complaints(UNIT.replace(f"{line}\n", f"{wrong}\n"))


def test_the_unit_gives_the_server_time_and_a_place_for_its_state() -> None:
    directives = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))
    assert int(directives["TimeoutStopSec"]) >= Settings().server.shutdown_grace_s + 10
    assert directives["StateDirectory"] == "narrative-proxy"
    environ = dict(word.split("=", 1) for word in directives["Environment"].split())
    assert settings_of(environ).access.folder == "%S/narrative-proxy"
    assert directives["RestartPreventExitStatus"] == "2"  # of `serve` with settings that are missing or wrong
