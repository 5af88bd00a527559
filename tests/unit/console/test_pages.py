"""The files of the console: whole, small, with the licences of what others wrote, and naming nothing that would be loaded from elsewhere."""

import re
from pathlib import Path

import pytest

from proxy.console.routes import FOLDER, HEADERS

OURS = [file for file in FOLDER.rglob("*.*") if file.is_file() and "vendor" not in file.parts]
VENDOR = FOLDER / "vendor"
SCRIPTS = [file for file in OURS if file.suffix == ".js"]


def ids(file: Path) -> str:
    return file.name


@pytest.mark.parametrize("file", OURS, ids=ids)
def test_no_file_of_ours_names_another_host(file: Path) -> None:
    text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text)


@pytest.mark.parametrize("file", SCRIPTS, ids=ids)
def test_no_script_of_ours_parses_html_or_text_as_code(file: Path) -> None:
    text = file.read_text("utf-8")
    assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function)", text)


@pytest.mark.parametrize("file", SCRIPTS, ids=ids)
def test_every_import_is_a_file_that_is_there(file: Path) -> None:
    for target in imported(file):
        assert (file.parent / target).is_file(), target


def test_imports_are_found() -> None:
    assert {target for file in SCRIPTS for target in imported(file)}, "else the test above checks nothing"


def imported(file: Path) -> list[str]:
    """What a script names in imports and re-exports of its own folder, and in dynamic ones."""
    found = re.findall(r'(?:from|import)\s*\(?\s*["\']([^"\']+)["\']', file.read_text("utf-8"))
    return [target for target in found if target.startswith(".")]


def test_the_page_has_no_scripts_or_styles_within() -> None:
    page = (FOLDER / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=", page)
    targets = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert any(target.endswith(".js") for target in targets)
    for target in targets:
        assert (FOLDER / target).is_file(), target


def test_every_vendored_file_is_named_with_its_version_and_licence() -> None:
    readme = (VENDOR / "README.md").read_text("utf-8")
    for file in VENDOR.iterdir():
        assert f"`{file.name}`" in readme or file.name == "README.md"
    rows = re.findall(r"^\| `.*$", readme, re.MULTILINE)
    assert len(rows) == len(list(VENDOR.glob("*.LICENSE.txt"))) > 0
    for row in rows:
        name, version = re.findall(r"\| ([\w.-]+) \| ([\d.]+) \|", row)[0]
        script, licence = re.findall(r"`([a-z]+\.js)`", row)[0], re.findall(r"`([a-z]+\.LICENSE\.txt)`", row)[0]
        assert version in (VENDOR / script).read_text("utf-8")[:600], name
        assert len((VENDOR / licence).read_text("utf-8")) > 500


def test_the_policy_forbids_all_that_it_does_not_allow() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["content-security-policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) <= {"'self'", "'none'", "'self' data:"}
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
