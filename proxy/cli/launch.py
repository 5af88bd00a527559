"""`narrative-proxy launch`: start a client that talks to a running proxy, by its environment and its arguments alone."""

import http.client
import json
import os
import shlex
import shutil
from typing import Final
from urllib.parse import urlsplit

import click

from proxy.cli.common import fail

KEY_VARIABLE: Final = "NARRATIVE_PROXY_KEY"
# Both agents take models that they do not know for larger ones, and would compact their history too late.
_SMALLEST_WINDOW: Final = 200_000
# The client would send its requests, or a key of the user's, elsewhere.
_REMOVED: Final = ("ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY")


def configuration(
    program: str, url: str, key: str, model: str | None, models: list[str]
) -> tuple[dict[str, str], list[str]]:
    """What points a program at a proxy: variables for its environment, and arguments ahead of the user's.

    Args:
        program: `claude`, `codex`, or any other, which gets the variables that SDKs read.
        url: the proxy's, without `/v1`.
        model: the one to use, else the newest Sonnet of `models`, else their first.
        models: all that the key may use, at least one.
    """
    newest = {
        family: max((name for name in models if name.startswith("claude") and family in name), default=None)
        for family in ("opus", "sonnet", "haiku")
    }
    model = model or newest["sonnet"] or models[0]
    if program == "codex":
        provider = f'{{name="Narrative", base_url="{url}/v1", env_key="{KEY_VARIABLE}", wire_api="responses"}}'
        overrides = {
            "model_provider": "narrative",
            "model_providers.narrative": provider,
            "model": json.dumps(model),
            "model_context_window": _SMALLEST_WINDOW,
        }
        return {KEY_VARIABLE: key}, [part for name, value in overrides.items() for part in ("-c", f"{name}={value}")]
    token = {"ANTHROPIC_AUTH_TOKEN": key}
    environment = {"ANTHROPIC_BASE_URL": url}
    if program == "claude":
        environment |= {"ANTHROPIC_MODEL": model, "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(_SMALLEST_WINDOW)}
        environment |= {f"ANTHROPIC_DEFAULT_{family.upper()}_MODEL": name or model for family, name in newest.items()}
        environment["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"
        # Else a stream that breaks is asked for again in another form, which is a job of its own.
        environment["CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK"] = "1"
        # The user's settings file may hold an `env`, which wins over the environment, but not over this argument.
        return environment | token, ["--settings", json.dumps({"env": environment})]
    environment |= {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_BASE": f"{url}/v1", "OPENAI_API_KEY": key}
    return environment | {"INFERENCE_URL": url, "INFERENCE_KEY": key, "INFERENCE_MODEL_ID": model} | token, []


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The running proxy, without /v1.")
@click.option("--key", envvar=KEY_VARIABLE, default="any-key", help=f"API key of the proxy [env: {KEY_VARIABLE}].")
@click.option("--model", help="Default: the newest Sonnet that the proxy offers, else its first model.")
@click.option(
    "--print", "show", is_flag=True, help="Show the command for a shell, key included, instead of running it."
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def launch(url: str, key: str, model: str | None, show: bool, command: tuple[str, ...]) -> None:
    """Start a client that talks to a running proxy: claude, codex, or any COMMAND whose SDK reads the environment.

    The client gets environment variables and arguments; none of its own files is changed. Options after its name are its own.
    """
    url = url.rstrip("/").removesuffix("/v1")
    program, *rest = command
    environment, arguments = configuration(program, url, key, model, _models(url, key))
    line = [program, *arguments, *rest]
    if show:
        removed = [part for name in _REMOVED for part in ("-u", name)]
        click.echo(shlex.join(["env", *removed, *(f"{name}={value}" for name, value in environment.items()), *line]))
        return
    found = shutil.which(program) or fail([f"{program} is not installed, or not in PATH"])
    inherited = {name: value for name, value in os.environ.items() if name not in _REMOVED}
    os.execve(found, line, inherited | environment)  # noqa: S606 - the program that the user named


def _models(url: str, key: str) -> list[str]:
    """The names of models that the key may use; exits, saying why, if the proxy does not tell."""
    try:
        address = urlsplit(url)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = kind(address.netloc, timeout=10.0)
        connection.request("GET", f"{address.path}/v1/models", headers={"authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        if answer.status in (401, 403):
            fail([f"{url} does not accept the API key: give one with --key or {KEY_VARIABLE}"])
        models = [str(model["id"]) for model in json.loads(answer.read(1 << 20))["data"]]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        fail([f"no proxy answers at {url}: {error}; one is started by: narrative-proxy serve --sandbox"])
    return models or fail([f"the API key may use none of the models at {url}"])
