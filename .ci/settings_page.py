"""Write docs/settings.md, the reference of settings, from `proxy/settings.py` (names, types, bounds, defaults) and from the
descriptions in `config/proxy.toml`.

    python .ci/settings_page.py            # writes it
    python .ci/settings_page.py --check    # fails if it is not current
"""

import re
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from proxy.settings import ENVIRONMENT_NAMES, Settings  # noqa: E402

PAGE = ROOT / "docs" / "settings.md"
HEAD = """# Reference of settings

Made by `make settings-page` from `proxy/settings.py` and [config/proxy.toml](../config/proxy.toml); a test checks that it is current.
[Configuration](configuration.md) says how a file, the environment and the command line go together.
"""
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}


def descriptions() -> dict[tuple[str, str], str]:
    """The comment above each setting of the shipped file, without the sentences about its variable and default."""
    found, section, comment = {}, "", ""
    for line in (ROOT / "config" / "proxy.toml").read_text("utf-8").splitlines():
        if header := re.match(r"\[(\w+)\]", line):
            section = header[1]
        elif line.startswith("# "):
            comment = line[2:]
        elif setting := re.match(r"#(\w+) = ", line):
            found[section, setting[1]] = re.sub(r" (Environment: \w+|Default: unset)\.", "", comment)
    return found


def kind(annotation: Any) -> str:
    """The type of a value, as TOML names it."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{json_text(value)}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "list of texts"
    if inner := [
        each for each in get_args(annotation) if each is not type(None)
    ]:  # of X | None, and of Annotated[X, …]
        return kind(inner[0])
    names = {bool: "`true`, `false`", int: "integer", float: "number", str: "text", SecretStr: "text, secret"}
    return names.get(annotation, "text")


def json_text(value: object) -> str:
    match value:
        case None:
            return "unset"
        case bool():
            return str(value).lower()
        case tuple():
            return "[" + ", ".join(json_text(each) for each in value) + "]"
        case str() | Path():
            return f'"{value}"'
    return str(value)


def row(section: str, name: str, field: FieldInfo, description: str) -> str:
    bounds = [
        f"{sign} {getattr(each, key):,}"
        for each in field.metadata
        for key, sign in BOUNDS.items()
        if hasattr(each, key)
    ]
    short = [f"Also `{variable}`." for variable, path in ENVIRONMENT_NAMES.items() if path == (section, name)]
    default = "unset" if field.default is None else f"`{json_text(field.default)}`"
    values = " ".join([kind(field.annotation), ", ".join(bounds)]).strip()
    cells = [f"`{name}`", values, default, " ".join([description, *short])]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def render() -> str:
    """The page."""
    described = descriptions()
    parts = [HEAD]
    for section, of in Settings.model_fields.items():
        table: Any = of.annotation
        about = " ".join((table.__doc__ or "").split("\n\n")[0].split())
        variables = f"In the environment: `PROXY_{section.upper()}__` and the name in capitals."
        parts.append(
            f"## {section}\n\n{about} {variables}\n\n| setting | values | default | meaning |\n|---|---|---|---|"
        )
        parts[-1] += "".join(
            "\n" + row(section, name, field, described[section, name]) for name, field in table.model_fields.items()
        )
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(render(), "utf-8")
    elif not PAGE.is_file() or PAGE.read_text("utf-8") != render():
        sys.exit("docs/settings.md is not current: `make settings-page` writes it")
