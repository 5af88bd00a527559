"""The `narrative-proxy keys` commands: make, list and revoke the proxy's own keys."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click

from proxy.access.keys import Keys
from proxy.access.limits import Quota
from proxy.cli.common import config_option, fail, read_settings
from proxy.errors import ProxyError
from proxy.settings import Settings
from proxy.storage import open_storage

T = TypeVar("T")
_UNITS = {"m": 60, "h": 3600, "d": 86_400}


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """`30d`, `12h`, `90m` from now, or a date or time in ISO 8601 (UTC where it names no zone) → seconds since 1970."""
    if value is None:
        return None
    if span := re.fullmatch(r"(\d{1,6})([mhd])", value):
        seconds = int(time.time()) + int(span[1]) * _UNITS[span[2]]
    else:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            expected = "a span such as 30d nor a date such as 2030-01-31"
            raise click.BadParameter(f"{value!r} is neither {expected}") from None
        seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if seconds <= time.time():
        raise click.BadParameter(f"{value!r} is in the past")
    return seconds


def _listed(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    names = None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())
    if names == ():
        raise click.BadParameter("is empty; leave it out for a key that may use all of them")
    return names


@click.group("keys")
def keys_group() -> None:
    """Make, list and revoke keys that clients present to the proxy."""


@keys_group.command()
@click.option("--name", required=True, help="A description, such as the app's name.")
@click.option(
    "--models", callback=_listed, help="Models and named endpoints it may use, comma-separated. Default: all."
)
@click.option("--data-plane", type=click.UUID, help="Data plane its jobs run on. Default: the proxy's.")
@click.option("--rpm", type=click.IntRange(min=1), help="Requests a minute.")
@click.option("--tpm", type=click.IntRange(min=1), help="Tokens a minute.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Jobs in flight at a time.")
@click.option("--expires", metavar="WHEN", callback=_moment, help="A span (30d, 12h, 90m) or a date (2030-01-31).")
@config_option
def create(
    config: Path | None, name: str, models: tuple[str, ...] | None, data_plane: UUID | None, **limits: Any
) -> None:
    """Make a key and show it, once: only its hash is stored."""
    if not name.strip():
        raise click.BadParameter("is empty", param_hint="'--name'")
    quota = Quota(requests=limits["rpm"], tokens=limits["tpm"], jobs=limits["concurrency"])
    plane = str(data_plane) if data_plane else None
    key, secret = _run(
        config,
        lambda stored: stored.create(
            name, models=models, data_plane_id=plane, quota=quota, expires_at=limits["expires"]
        ),
    )
    click.echo(f"{key.id} ({key.name}) was made. This is the only time it is shown:", err=True)
    click.echo(secret)


@keys_group.command("list")
@config_option
def list_(config: Path | None) -> None:
    """Show every key that was made, without the keys themselves."""
    rows: list[tuple[str, ...]] = [("ID", "NAME", "STATUS", "EXPIRES", "RPM", "TPM", "JOBS", "DATA PLANE", "MODELS")]
    for key in _run(config, Keys.all):
        status = "revoked" if key.revoked_at else "works" if key.works_at(time.time()) else "expired"
        expires = datetime.fromtimestamp(key.expires_at, UTC).strftime("%Y-%m-%d %H:%MZ") if key.expires_at else "-"
        limits = (str(limit or "-") for limit in (key.quota.requests, key.quota.tokens, key.quota.jobs))
        models = ", ".join(key.models or ["all"])
        rows.append((key.id, key.name, status, expires, *limits, key.data_plane_id or "-", models))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@keys_group.command()
@click.argument("key")
@config_option
def revoke(config: Path | None, key: str) -> None:
    """Revoke the key of that id, or all of that name, for good. Every replica refuses it within a second."""
    revoked = _run(config, lambda stored: stored.revoke(key))
    if not revoked:
        fail([f"no working key has the id or name {key!r}"])
    for each in revoked:
        click.echo(f"{each.id} ({each.name}) is revoked.")


async def with_keys(settings: Settings, work: Callable[[Keys], Awaitable[T]]) -> T:
    """What some work on the stored keys returns. Raises ProxyError when the store cannot be reached."""
    state = settings.state
    url = state.url.get_secret_value() if state.url else None
    async with open_storage(settings.access.home(), url, state.prefix) as storage:
        return await work(Keys(storage.durable, settings.access.home()))


def _run(config: Path | None, work: Callable[[Keys], Awaitable[T]]) -> T:
    try:
        return asyncio.run(with_keys(read_settings(config), work))
    except ProxyError as error:
        fail([error.message])
