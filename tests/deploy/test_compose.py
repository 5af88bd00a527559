"""The Compose file and what it mounts, against the Compose specification, nginx's directives and the proxy's settings."""

import importlib.resources
import json
import re
from pathlib import Path
from typing import Any

import crossplane
import jsonschema
import pytest
import yaml

from proxy import __version__
from proxy.settings import Settings
from tests.deploy.settings import settings_of

DEPLOY = Path(__file__).parents[2] / "deploy"
TEXT = (DEPLOY / "compose.yaml").read_text("utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]
DEFAULTS = Settings()


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


def test_the_file_is_what_the_compose_specification_says() -> None:
    schemas = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text("utf-8"))
    check = jsonschema.validators.validator_for(schema)(schema)
    check.validate(yaml.safe_load(TEXT))
    wrong = yaml.safe_load(TEXT.replace("stop_grace_period", "stop_grace"))
    assert not check.is_valid(wrong)


def test_the_environment_of_the_proxy_is_settings_and_env_example_names_what_is_asked_for() -> None:
    environ = SERVICES["proxy"]["environment"]
    written = {name: re.sub(r"\$\{[^}]*\}", "", value) for name, value in environ.items()}
    assert settings_of(written).state.url
    assert all(
        hasattr(DEFAULTS, name.split("__")[0].removeprefix("PROXY_").lower()) for name in environ if "__" in name
    )
    example = (DEPLOY / "env.example").read_text("utf-8")
    assert set(re.findall(r"\$\{(\w+):\?", TEXT)) == set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_a_replica_has_longer_to_stop_than_it_takes() -> None:
    assert seconds(SERVICES["proxy"]["stop_grace_period"]) >= DEFAULTS.server.shutdown_grace_s + 10
    assert SERVICES["proxy"]["deploy"]["replicas"] == 2


def test_valkey_keeps_what_it_is_told() -> None:
    command = SERVICES["valkey"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert "valkey:/data" in SERVICES["valkey"]["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_of_one_version_and_mounted_files_exist(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].partition(":")
    assert re.match(r"v?\d+\.\d+\.\d+", tag), image
    assert (image == "narrative-chat-proxy") is (tag == __version__)
    for volume in SERVICES[name].get("volumes", ()):
        source = volume.split(":")[0]
        assert (DEPLOY / source).exists() if source.startswith(".") else source in yaml.safe_load(TEXT)["volumes"]


def nginx() -> dict[str, Any]:
    parsed: dict[str, Any] = crossplane.parse(
        str(DEPLOY / "compose" / "nginx.conf"), strict=True, single=True, check_ctx=True, check_args=True
    )
    return parsed


def directives(block: list[dict[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in block:
        found[" ".join([each["directive"], *each["args"]]) if "block" in each else each["directive"]] = each["args"]
        found |= directives(each.get("block", []))
    return found


def test_nginx_streams_and_waits_as_long_as_the_proxy() -> None:
    parsed = nginx()
    assert (parsed["status"], parsed["errors"]) == ("ok", [])
    found = directives(parsed["config"][0]["parsed"])
    assert found["proxy_buffering"] == found["gzip"] == ["off"]
    assert seconds(found["proxy_read_timeout"][0]) > DEFAULTS.jobs.deadline_s
    assert found["proxy_http_version"] == ["1.1"]
    assert int(found["client_max_body_size"][0].removesuffix("m")) << 20 > DEFAULTS.server.max_body_bytes
    assert "non_idempotent" not in found["proxy_next_upstream"]  # else a request that was sent would be sent again
    http = next(each for each in parsed["config"][0]["parsed"] if each["directive"] == "http")
    upstream = next(each for each in http["block"] if each["directive"] == "upstream")
    assert seconds(directives(upstream["block"])["keepalive_timeout"][0]) < DEFAULTS.server.keep_alive_s
    assert "location = /metrics" in found


def test_prometheus_asks_every_replica_and_grafana_asks_prometheus() -> None:
    [job] = yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text("utf-8"))["scrape_configs"]
    [found] = job["dns_sd_configs"]
    assert found["names"] == ["proxy"]
    assert found["port"] == DEFAULTS.server.port
    provisioning = DEPLOY / "compose" / "grafana"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text("utf-8"))["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    [provider] = yaml.safe_load((provisioning / "dashboards" / "files.yaml").read_text("utf-8"))["providers"]
    assert any(f":{provider['options']['path']}:" in volume for volume in SERVICES["grafana"]["volumes"])
