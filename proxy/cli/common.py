"""What the commands share: reading the settings, and ending with a clear message."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import click

from proxy.settings import Settings, SettingsError, load_settings

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="Settings file [env: PROXY_CONFIG; default: config/proxy.toml]."
)


def read_settings(config: Path | None, overrides: Mapping[tuple[str, str], object] | None = None) -> Settings:
    """The settings; exits where they cannot be used, and warns of variables that have no effect."""

    def warn(warning: str) -> None:
        click.echo(f"narrative-proxy: warning: {warning}", err=True)

    try:
        return load_settings(os.environ, config=config, overrides=overrides, warn=warn)
    except SettingsError as error:
        fail(error.faults)


def fail(errors: Iterable[str], code: int = 2) -> NoReturn:
    """Print the errors, a line each, and exit: with 2 where a setting is missing or wrong."""
    for error in errors:
        click.echo(f"narrative-proxy: {error}", err=True)
    sys.exit(code)
