"""Gather the pages of the documentation site, and check what was built of them.

    python .ci/site.py prepare build/docs    # README, CHANGELOG, CONTRIBUTING, docs/, and the files that they link to
    python .ci/site.py check build/site      # every link and anchor leads somewhere, and no page loads anything from another host

Pages keep their places in the repository, so that the same relative links work there and in the site. Links to folders are shown as text.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
LOADING = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data")}
LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "manifest", "modulepreload"}


def pages() -> list[Path]:
    """What becomes a page, relative to the repository."""
    named = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    return [page.relative_to(ROOT) for page in [*named, *sorted((ROOT / "docs").rglob("*.md"))]]


def prepare(folder: Path) -> None:
    """Write the pages, and copy the files that they link to, to a folder that is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    every = set(pages())
    for page in every:
        base = (ROOT / page).parent

        def link(found: re.Match[str], base: Path = base) -> str:
            target = (base / found[2]).resolve()
            if target.is_dir():
                return found[1]
            relative = target.relative_to(ROOT)
            if target.is_file() and relative not in every:
                (folder / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(target, folder / relative)
            return found[0]

        written = LINK.sub(link, (ROOT / page).read_text("utf-8"))
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        (folder / page).write_text(written, "utf-8")
    shutil.copyfile(ROOT / ".ci" / "site.css", folder / "site.css")


class Built(HTMLParser):
    """The links, the anchors and the loaded addresses of one built page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and LOADED_LINKS & set(values.get("rel", "").split()):
            self.loaded.append(values.get("href", ""))
        self.loaded += [values[name] for element, name in LOADING if element == tag and name in values]


def errors(site: Path) -> Iterator[str]:
    """What is wrong with a built site, a line each."""
    built = {file.relative_to(site).as_posix(): Built(file.read_text("utf-8")) for file in sorted(site.rglob("*.html"))}
    if len(built) < len(pages()):
        yield f"{len(built)} pages were built of {len(pages())}"
    for name, page in built.items():
        if name == "404.html":  # its links are absolute: the web server shows it at any address
            continue
        for address in page.links + page.loaded:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in page.loaded and parts.scheme != "data":
                    yield f"{name} loads {address}"
                continue
            path = unquote(urlsplit(urljoin(f"http://site/{name}", parts.path)).path).lstrip("/")
            target = path + "index.html" if not path or path.endswith("/") else path
            if not (site / target).is_file():
                yield f"{name} links to {address}, which is not there"
            elif parts.fragment and parts.fragment not in {*built[target].anchors, "__toc"}:
                yield f"{name} links to {address}, which has no such anchor"
    for style in site.rglob("*.css"):
        for address in re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)'\"]+)", style.read_text("utf-8")):
            yield f"{style.relative_to(site)} loads {address}"


if __name__ == "__main__":
    command, folder = sys.argv[1], Path(sys.argv[2])
    if command == "prepare":
        prepare(folder)
    elif found := list(errors(folder)):
        sys.exit("\n".join(found))
