"""What the commands share: reading the settings, and ending with a clear message."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NoReturn

import click

from proxy.settings import Settings, SettingsError, load_settings

CANNOT_START: Final = 2
"""Exit code when a setting is missing or wrong."""

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


def fail(errors: Iterable[str], code: int = CANNOT_START) -> NoReturn:
    """Print the errors, a line each, and exit."""
    for error in errors:
        click.echo(f"narrative-proxy: {error}", err=True)
    sys.exit(code)
