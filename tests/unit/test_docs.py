"""What README and the pages in `docs/` promise is what the code has."""

import json
import re
import subprocess
import sys
from pathlib import Path

from proxy import __version__
from proxy.app import create_app
from proxy.errors import ProxyError
from proxy.settings import ENVIRONMENT_NAMES, Settings
from tests.unit.test_errors import tree

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCS = "\n".join(page.read_text("utf-8") for page in PAGES)
CODE = "\n".join(file.read_text("utf-8") for file in (ROOT / "proxy").rglob("*.py"))


def test_every_environment_name_is_documented() -> None:
    assert all(f"`{name}`" in DOCS for name in ENVIRONMENT_NAMES)


def test_every_error_code_is_documented() -> None:
    codes = {kind.default_code for kind in tree(ProxyError)} | set(re.findall(r'code="([a-z_]+)"', CODE))
    unused = {"narrative_webhook_lost"}  # no client meets them
    assert not {code for code in codes - unused if code and f"`{code}`" not in DOCS}


def test_every_response_header_of_ours_is_documented() -> None:
    headers = set(re.findall(r'"(x-(?:proxy|should|request)[a-z-]+|x-narrative-job-id)"', CODE))
    assert {"x-proxy-model", "x-should-retry"} <= headers
    assert not {header for header in headers if f"`{header}`" not in DOCS}


def test_every_route_is_documented() -> None:
    paths = {getattr(route, "path", "") for route in create_app(Settings()).routes}
    named = {path for path in paths if path.startswith("/v1/") or path.endswith("z")} - {"/v1/models/{model:path}"}
    assert not {path for path in named if path.removesuffix("/") not in DOCS}


def test_the_version_is_in_the_changelog() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_every_relative_link_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), (page.name, target)


def test_the_releases_of_clients_are_those_that_are_tested() -> None:
    locked = {
        (name, version)
        for file in ("requirements-clients.txt", "requirements-clients-openai2.txt", "requirements-dev.txt")
        for name, version in re.findall(
            r"^([\w-]+)(?:\[[^]]*\])?==(\S+)", (ROOT / file).read_text("utf-8"), re.MULTILINE
        )
    }
    locked |= set(json.loads((ROOT / "tests/clients/node/package.json").read_bytes())["dependencies"].items())
    names = {name for name, _ in locked}
    text = DOCS.replace("Claude Code ", "`@anthropic-ai/claude-code` ").replace("Codex ", "`@openai/codex` ")
    named = set(re.findall(r"`([\w@/-]+)` (\d+\.\d[\d.]*)", text))
    named |= set(re.findall(r"^\| `([\w@/-]+)` \| (\d+\.\d[\d.]*)", text, re.MULTILINE))
    named = {(name, version) for name, version in named if name in names}
    named -= {("openai", "1.40.0")}  # whose retries were measured, too
    assert len(named) >= 20
    assert named <= locked, named - locked


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as repository hosts make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_every_anchor_is_a_heading() -> None:
    links = [
        (page, page.parent / target if target else page, anchor)
        for page in PAGES
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text("utf-8"))
    ]
    assert links
    for page, target, anchor in links:
        assert anchor in anchors(target), (page.name, target.name, anchor)


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in PAGES:
        assert f": {page.relative_to(ROOT)}\n" in navigation, page.name


def test_the_reference_of_settings_is_current() -> None:
    command = [sys.executable, str(ROOT / ".ci" / "settings_page.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr
