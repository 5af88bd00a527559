"""The `narrative-proxy` command. Each command imports what it needs, so that a health check does not load the server."""

import asyncio
import gc
import http.client
import sys
from functools import partial
from pathlib import Path

import click

from proxy import __version__
from proxy.access.authentication import unauthenticated
from proxy.access.keys import Keys
from proxy.catalog import CatalogError, load_catalog
from proxy.cli.batch import batch_group
from proxy.cli.common import config_option, fail, read_settings
from proxy.cli.keys import keys_group, with_keys
from proxy.cli.launch import KEY_VARIABLE, launch
from proxy.errors import ProxyError
from proxy.settings import NarrativeSettings, Settings


@click.group(
    invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="narrative-proxy")
@click.pass_context
def main(context: click.Context) -> None:
    """OpenAI's and Anthropic's APIs on top of Narrative model inference.

    Without a command it serves, on the embedded sandbox unless something of Narrative is configured.

    \b
    Try it without an account:   narrative-proxy serve --sandbox
    With an account:             NARRATIVE_API_KEY=… NARRATIVE_DATA_PLANE_ID=… narrative-proxy serve
    """
    if context.invoked_subcommand is None:
        _serve(read_settings(None), sandbox=None)


@main.command()
@click.option("--host", help="Address to listen on [env: PROXY_HOST; default: 127.0.0.1].")
@click.option("--port", type=int, help="Port to listen on, 0 for a free one [env: PROXY_PORT; default: 8080].")
@config_option
@click.option("--sandbox", is_flag=True, help="Run on an embedded sandbox: no account, no cost, canned answers.")
@click.option("--workers", type=int, help="Worker processes [env: PROXY_SERVER__WORKERS; default: 1].")
def serve(host: str | None, port: int | None, config: Path | None, sandbox: bool, workers: int | None) -> None:
    """Serve /v1/chat/completions.

    With NARRATIVE_API_KEY set, clients present one of PROXY_API_KEYS; with none configured the server starts on a loopback address
    only. Without it, each client's own bearer token is passed through to Narrative.
    """
    given = {("server", "host"): host, ("server", "port"): port, ("server", "workers"): workers}
    _serve(read_settings(config, {path: value for path, value in given.items() if value is not None}), sandbox=sandbox)


def _serve(settings: Settings, *, sandbox: bool | None) -> None:
    """`sandbox` None: where nothing is configured."""
    if sandbox is None:
        sandbox = settings.narrative == NarrativeSettings()
    _check(settings, sandbox=sandbox)

    gc.disable()  # until all is imported and `settled`: collections in between find nothing and take a tenth of the time
    from proxy.app import create_app
    from proxy.cli.running import run

    run(partial(create_app, settings, sandbox=sandbox), settings, _banner(settings, sandbox))


@main.command("sandbox")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=int, default=8090, show_default=True, help="Port to listen on.")
@config_option
def sandbox_command(host: str, port: int, config: Path | None) -> None:
    """Serve the sandbox alone: an imitation of Narrative's API for development and tests."""
    from proxy.cli.running import run
    from proxy.sandbox import SandboxOptions, create_sandbox

    settings = read_settings(config, {("server", "host"): host, ("server", "port"): port})
    banner = (
        "Narrative sandbox on {url}\n\n"
        "Point the proxy at it:  NARRATIVE_ENVIRONMENT={url} NARRATIVE_API_KEY=any "
        "NARRATIVE_DATA_PLANE_ID=<any uuid> narrative-proxy serve"
    )
    run(partial(create_sandbox, SandboxOptions(**settings.sandbox.model_dump())), settings, banner)


@main.command()
@config_option
def check(config: Path | None) -> None:
    """Check the settings and the Narrative credentials (one cheap read call), and print every error."""
    settings = read_settings(config)
    _check(settings)
    click.echo("Settings: fine.")
    narrative = settings.narrative
    if narrative.api_key is None:
        click.echo("Credentials: none to check; each client's own token is passed through to Narrative.")
        return
    try:
        asyncio.run(_read_once(narrative.api_key.get_secret_value(), narrative.environment))
    except ProxyError as error:
        fail([f"Narrative ({narrative.environment}): {error.message}"])
    click.echo(f"Credentials: Narrative ({narrative.environment}) accepts the API key for reading jobs.")


@main.command()
@config_option
def health(config: Path | None) -> None:
    """Ask a running server on this machine whether it is ready; exit code 0 when it is. For container health checks."""
    server = read_settings(config).server
    host = "127.0.0.1" if server.host in ("0.0.0.0", "::", "") else server.host
    connection = http.client.HTTPConnection(host, server.port, timeout=3.0)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        click.echo(answer.read(1000))
    except (OSError, http.client.HTTPException) as error:
        fail([f"not reachable: {error}"], code=1)
    finally:
        connection.close()
    sys.exit(0 if answer.status == 200 else 1)


async def _read_once(api_key: str, environment: str) -> None:
    from proxy.backends.narrative.client import ClientOptions, NarrativeClient

    async with NarrativeClient(api_key, environment=environment, options=ClientOptions(retry_timeout=5.0)) as narrative:
        await narrative.list_jobs(type="model_inference", per_page=1)


def _check(settings: Settings, *, sandbox: bool = False) -> None:
    """Exits, with a sentence for each reason, when the server cannot start."""
    faults = [] if sandbox else _missing(settings)
    try:
        load_catalog(settings.chat.models_file, default_model=settings.chat.default_model)
    except CatalogError as error:
        faults.append(str(error))
    if faults:
        fail(faults)


def _missing(settings: Settings) -> list[str]:
    narrative, server = settings.narrative, settings.server
    if narrative.api_key is None:
        unusable = "PROXY_API_KEYS is set, but not NARRATIVE_API_KEY: the proxy has no token that these keys could give access to."
        return [unusable] if server.api_keys else []
    faults = []
    if narrative.data_plane_id is None:
        faults.append("NARRATIVE_DATA_PLANE_ID is missing: the id of the data plane that runs the inference.")
    if server.api_keys or unauthenticated(settings) != "never":
        return faults
    try:
        if not asyncio.run(with_keys(settings, Keys.exist)):
            faults.append(
                f"PROXY_API_KEYS is missing: on {server.host} anyone who reaches the port could spend your Narrative account. "
                "Set keys, make one with `narrative-proxy keys create`, or set `server.allow_unauthenticated`."
            )
    except ProxyError as error:
        faults.append(error.message)
    return faults


def _banner(settings: Settings, sandbox: bool) -> str:
    what = f"for Narrative ({settings.narrative.environment})"
    if sandbox:
        what = "on the embedded sandbox (no account, no cost; answers are canned)"
    elif settings.narrative.api_key is None:
        what += ", passing each client's own token through"
    key = "any-key" if sandbox and not settings.server.api_keys else "$KEY"
    console = "  console    {url}/console\n" if settings.console.enabled else ""
    return (
        f"narrative-proxy {__version__} {what}\n\n"
        f"  base URL   {{url}}/v1\n{console}\n"
        f"  curl {{url}}/v1/chat/completions -H \"Authorization: Bearer {key}\" -H 'Content-Type: application/json' \\\n"
        '    -d \'{{"model": "claude-4-5-haiku", "messages": [{{"role": "user", "content": "Hello!"}}]}}\'\n\n'
        f'  OpenAI SDKs   export OPENAI_BASE_URL={{url}}/v1 OPENAI_API_KEY="{key}"\n'
        f'  Claude Code   ANTHROPIC_BASE_URL={{url}} ANTHROPIC_AUTH_TOKEN="{key}" claude --model claude-4-5-sonnet\n'
        f'  Codex         {KEY_VARIABLE}="{key}" codex -m claude-4-5-sonnet -c model_provider=narrative \\\n'
        '    -c \'model_providers.narrative={{name="Narrative", base_url="{url}/v1", '
        f'env_key="{KEY_VARIABLE}", wire_api="responses"}}}}\'\n'
    )


main.add_command(keys_group)
main.add_command(batch_group)
main.add_command(launch)
