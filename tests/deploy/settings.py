"""Whether variables in the files are settings of the proxy."""

from collections.abc import Mapping

from proxy.settings import Settings, load_settings


def settings_of(environ: Mapping[str, str]) -> Settings:
    """The settings that these variables make; fails where one of them is none, or is one of another form."""
    warnings: list[str] = []
    settings = load_settings(environ, warn=warnings.append)
    assert not warnings
    return settings
