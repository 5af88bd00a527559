"""The documentation site: its pages are gathered with what they link to, and what is wrong with a built one is found."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "site.py"
loaded = importlib.util.spec_from_file_location("documentation_site", SCRIPT)
assert loaded is not None
assert loaded.loader is not None
site = importlib.util.module_from_spec(loaded)
loaded.loader.exec_module(site)


def test_pages_are_gathered_with_the_files_that_they_link_to(tmp_path: Path) -> None:
    folder = tmp_path / "gathered"
    site.prepare(folder)
    for page in site.pages():
        assert (folder / page).is_file()
        for _, target, _ in site.LINK.findall((folder / page).read_text("utf-8")):
            assert ((folder / page).parent / target).exists(), (page, target)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (
            '<a href="b/#there">fine</a><img src="data:image/png;base64,AA=="><a href="https://example.com">fine</a>',
            None,
        ),
        ('<a href="b/#missing">no</a>', "no such anchor"),
        ('<a href="c/">no</a>', "c/, which is not there"),
        ('<img src="gone.png">', "gone.png, which is not there"),
        ('<script src="https://example.com/a.js"></script>', "loads https://example.com/a.js"),
        ('<link rel="stylesheet" href="//example.com/a.css">', "loads //example.com/a.css"),
        ('<link rel="preconnect" href="https://example.com">', "loads https://example.com"),
    ],
)
def test_broken_links_and_foreign_hosts_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, named: str | None
) -> None:
    monkeypatch.setattr(site, "pages", lambda: [Path("index.md"), Path("b.md")])
    (tmp_path / "b").mkdir()
    (tmp_path / "index.html").write_text(body, "utf-8")
    (tmp_path / "b" / "index.html").write_text('<h2 id="there">There</h2><a href="..">up</a>', "utf-8")
    found = list(site.errors(tmp_path))
    assert (named is None and not found) or (named is not None and len(found) == 1 and named in found[0]), found


def test_style_sheets_that_load_from_other_hosts_and_missing_pages_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "pages", lambda: [Path("index.md")])
    (tmp_path / "a.css").write_text("@font-face { src: url('https://example.com/font.woff2') }", "utf-8")
    assert len(list(site.errors(tmp_path))) == 2
