"""Settings: command line over environment over file over defaults; every fault at once, named by where it was set."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from proxy.settings import ENVIRONMENT_NAMES, Settings, SettingsError, config_folder, load_settings

SHIPPED = config_folder() / "proxy.toml"


def write(folder: Path, text: str) -> Path:
    file = folder / "settings.toml"
    file.write_text(text, "utf-8")
    return file


def test_the_shipped_file_is_all_defaults() -> None:
    assert load_settings({}) == Settings()


def test_the_shipped_file_shows_every_setting_at_its_default_with_its_description() -> None:
    text = SHIPPED.read_text("utf-8")
    shown = tomllib.loads("\n".join(line.removeprefix("#") for line in text.splitlines() if not line.startswith("# ")))
    assert list(shown) == list(Settings.model_fields)
    for section, table in shown.items():
        fields = type(getattr(Settings(), section)).model_fields
        assert list(table) == list(fields), section
        for name, field in fields.items():
            default = field.default if field.default is not None else ""
            assert table[name] == (list(default) if isinstance(default, tuple) else default), name

    lines = text.splitlines()
    for above, line in pairwise(lines):
        if line.startswith("#") and not line.startswith("# "):
            assert re.match(r"# [A-Z`].{10,}\.$", above), line


def test_the_shipped_file_names_the_variables_that_have_names_of_their_own() -> None:
    text = SHIPPED.read_text("utf-8")
    for variable, (section, name) in ENVIRONMENT_NAMES.items():
        assert re.search(rf"^\[{section}\](\n#.*)*\n# .* Environment: {variable}\..*\n#{name} = ", text, re.MULTILINE)


def test_environment_beats_file_and_command_line_beats_environment(tmp_path: Path) -> None:
    file = write(tmp_path, "[server]\nhost = '1.1.1.1'\nport = 1\nworkers = 2\n")
    environ = {"PROXY_HOST": "2.2.2.2", "PROXY_PORT": "2"}
    server = load_settings(environ, config=file, overrides={("server", "port"): 3}).server
    assert (server.host, server.port, server.workers) == ("2.2.2.2", 3, 2)


@pytest.mark.parametrize(("variable", "path"), ENVIRONMENT_NAMES.items())
def test_the_fixed_names_reach_their_settings(variable: str, path: tuple[str, str]) -> None:
    given = {
        "NARRATIVE_ENVIRONMENT": "https://example.com:81",
        "NARRATIVE_DATA_PLANE_ID": "fef9904e-d263-4930-81f7-1e28cce40f89",
        "ANTHROPIC_BASE_URL": "https://example.com:81",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://example.com:81",
    }
    settings = load_settings({variable: given.get(variable, "81")})
    value = getattr(getattr(settings, path[0]), path[1])
    assert "81" in str(value.get_secret_value() if hasattr(value, "get_secret_value") else [*_plain(value)])


@pytest.mark.parametrize(
    ("variable", "wrong", "right"),
    [
        ("NARRATIVE_ENVIRONMENT", "PROD", "dev"),
        ("NARRATIVE_ENVIRONMENT", "example.com", "http://127.0.0.1:8090"),
        ("NARRATIVE_DATA_PLANE_ID", "mine", "fef9904e-d263-4930-85f7-1e28cce40f89"),
        ("NARRATIVE_API_KEY", "käse", "a-key"),
        ("PROXY_API_KEYS", "one,café", "one,two"),
        ("PROXY_STATE__URL", "nonsense", "rediss://user:secret@example.com:6380/1"),
        ("PROXY_STATE__URL", "http://example.com", "unix:///run/redis.sock"),
        ("PROXY_STATE__URL", "redis://[", "redis://[::1]:6379"),
        ("PROXY_WEBHOOKS__PUBLIC_URL", "ftp://example.com", "https://example.com/proxy"),
        ("ANTHROPIC_BASE_URL", "example.com", "https://example.com"),
        ("PROXY_SERVER__CORS_ORIGINS", "example.com", "https://example.com,app://local"),
    ],
)
def test_a_value_of_the_wrong_kind_is_a_fault_that_says_what_was_expected(
    variable: str, wrong: str, right: str
) -> None:
    load_settings({variable: right})
    with pytest.raises(SettingsError) as caught:
        load_settings({variable: wrong})
    [fault] = caught.value.faults
    assert fault.startswith(f"{variable}: expected ")


def _plain(value: object) -> list[object]:
    return [item.get_secret_value() for item in value] if isinstance(value, tuple) else [value]


def test_every_other_setting_is_reachable_by_section_and_name() -> None:
    settings = load_settings({"PROXY_JOBS__DEADLINE_S": "12.5", "PROXY_SERVER__CORS_ORIGINS": "https://a, https://b"})
    assert settings.jobs.deadline_s == 12.5
    assert settings.server.cors_origins == ("https://a", "https://b")


def test_empty_counts_as_unset() -> None:
    assert load_settings({"NARRATIVE_API_KEY": "", "PROXY_PORT": " ", "PROXY_CONFIG": ""}) == Settings()


def test_clients_keys_are_comma_separated_and_never_shown() -> None:
    settings = load_settings({"PROXY_API_KEYS": "one, two,", "NARRATIVE_API_KEY": "three"})
    assert [key.get_secret_value() for key in settings.server.api_keys] == ["one", "two"]
    assert not any(secret in repr(settings) for secret in ("'one'", "'two'", "three"))


def test_all_faults_are_reported_at_once_each_by_where_it_was_set(tmp_path: Path) -> None:
    file = write(tmp_path, "[server]\nhots = 'x'\n[nonsense]\na = 1\n[chat]\nmax_choices = 0\n")
    with pytest.raises(SettingsError) as caught:
        load_settings({"PROXY_PORT": "many", "PROXY_JOBS__MAX_IN_FLIGHT": "0"}, config=file)
    report = "\n".join(caught.value.faults)
    for named in (
        "server.hots: no such",
        "[nonsense]",
        "chat.max_choices",
        "PROXY_PORT",
        "PROXY_JOBS__MAX_IN_FLIGHT",
    ):
        assert named in report
    assert len(caught.value.faults) == 5


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("PROXY_NONSENSE", None),
        ("PROXY_JOBS__NOPE", None),
        ("PROXY_NOPE__NOPE", None),
        ("PROXY_API_KEY", "PROXY_API_KEYS"),
        ("PROXY_JOBS__DEADLINE", "PROXY_JOBS__DEADLINE_S"),
        ("PROXY_JOB__DEADLINE_S", "PROXY_JOBS__DEADLINE_S"),
    ],
)
def test_a_variable_that_is_no_setting_is_a_warning_that_names_a_near_miss(variable: str, meant: str | None) -> None:
    warnings: list[str] = []
    assert load_settings({variable: "1"}, warn=warnings.append) == Settings()
    [warning] = warnings
    assert warning.startswith(f"{variable} is no setting")
    assert ("did you mean" in warning) is (meant is not None)
    assert warning.endswith(f"did you mean {meant}?" if meant else "no effect")


def test_what_kubernetes_sets_for_a_service_called_proxy_is_one_warning_and_no_setting() -> None:
    links = {
        "PROXY_PORT": "tcp://10.0.0.7:8080",
        "PROXY_SERVICE_HOST": "10.0.0.7",
        "PROXY_SERVICE_PORT": "8080",
        "PROXY_SERVICE_PORT_HTTP": "8080",
        "PROXY_PORT_8080_TCP": "tcp://10.0.0.7:8080",
        "PROXY_PORT_8080_TCP_ADDR": "10.0.0.7",
        "PROXY_PORT_8080_TCP_PORT": "8080",
        "PROXY_PORT_8080_TCP_PROTO": "tcp",
        "PROXY_EU_SERVICE_HOST": "10.0.0.8",
    }
    warnings: list[str] = []
    assert load_settings(links, warn=warnings.append) == Settings()
    [warning] = warnings
    assert all(name in warning for name in links)
    assert load_settings({**links, "PROXY_SERVER__PORT": "81"}).server.port == 81


def test_a_near_miss_in_the_file_is_named_too(tmp_path: Path) -> None:
    file = write(tmp_path, "[jobs]\ndeadline = 1\n[jbos]\n")
    with pytest.raises(SettingsError) as caught:
        load_settings({}, config=file)
    assert [fault.rsplit("; ", 1)[1] for fault in caught.value.faults] == [
        "did you mean deadline_s?",
        "did you mean jobs?",
    ]


@pytest.mark.parametrize("text", ["not toml", "[server\n", "server = 3\n"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(SettingsError, match=r"settings\.toml"):
        load_settings({"PROXY_PORT": "81"}, config=file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="absent"):
        load_settings({"PROXY_CONFIG": str(tmp_path / "absent.toml")})
