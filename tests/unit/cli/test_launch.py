"""What points each client at a proxy."""

import json
import tomllib

import pytest

from proxy.cli.launch import KEY_VARIABLE, configuration

URL = "http://proxy.test:8080"
MODELS = ["gpt-oss-120b", "claude-4-5-haiku", "claude-4-5-sonnet", "claude-4-6-sonnet", "claude-4-5-opus", "my-sonnet"]


def test_claude_code_gets_an_address_without_v1_and_a_model_for_each_family() -> None:
    environment, _ = configuration("claude", URL, "k", None, MODELS)
    assert environment["ANTHROPIC_BASE_URL"] == URL
    assert environment["ANTHROPIC_AUTH_TOKEN"] == "k"
    assert environment["ANTHROPIC_MODEL"] == environment["ANTHROPIC_DEFAULT_SONNET_MODEL"] == "claude-4-6-sonnet"
    assert environment["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "claude-4-5-haiku"
    assert environment["ANTHROPIC_DEFAULT_OPUS_MODEL"] == "claude-4-5-opus"


def test_claude_codes_settings_repeat_the_environment_without_the_key() -> None:
    environment, [flag, settings] = configuration("claude", URL, "sekret", None, MODELS)
    assert flag == "--settings"
    assert json.loads(settings) == {"env": {k: v for k, v in environment.items() if k != "ANTHROPIC_AUTH_TOKEN"}}
    assert "sekret" not in settings


def test_codex_gets_a_provider_by_overrides_that_are_toml() -> None:
    environment, arguments = configuration("codex", URL, "sekret", None, MODELS)
    assert environment == {KEY_VARIABLE: "sekret"}
    assert set(arguments[::2]) == {"-c"}
    assert "sekret" not in str(arguments)
    overrides = dict(argument.split("=", 1) for argument in arguments[1::2])
    assert overrides["model_provider"] == "narrative"
    assert tomllib.loads(f"provider = {overrides['model_providers.narrative']}")["provider"] == {
        "name": "Narrative",
        "base_url": f"{URL}/v1",
        "env_key": KEY_VARIABLE,
        "wire_api": "responses",
    }
    assert tomllib.loads(f"model = {overrides['model']}") == {"model": "claude-4-6-sonnet"}


def test_other_programs_get_what_sdks_read() -> None:
    environment, arguments = configuration("aider", URL, "k", None, MODELS)
    assert arguments == []
    assert environment["OPENAI_BASE_URL"] == f"{URL}/v1"
    assert environment["INFERENCE_URL"] == environment["ANTHROPIC_BASE_URL"] == URL
    assert {environment[name] for name in ("OPENAI_API_KEY", "INFERENCE_KEY", "ANTHROPIC_AUTH_TOKEN")} == {"k"}


@pytest.mark.parametrize(
    ("model", "models", "chosen"),
    [(None, MODELS, "claude-4-6-sonnet"), (None, ["gpt-4.1", "o4-mini"], "gpt-4.1"), ("o4-mini", MODELS, "o4-mini")],
)
def test_the_model_is_the_given_one_or_the_newest_sonnet_or_the_first(
    model: str | None, models: list[str], chosen: str
) -> None:
    for program, name in (("claude", "ANTHROPIC_MODEL"), ("other", "INFERENCE_MODEL_ID")):
        assert configuration(program, URL, "k", model, models)[0][name] == chosen
    assert f'model="{chosen}"' in configuration("codex", URL, "k", model, models)[1]
