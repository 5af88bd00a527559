"""The Chromium or Chrome of this machine, and how it is started. `python -m tests.browser.chromium` sees to it that there is one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = ("Google Chrome", "Chromium", "Google Chrome for Testing")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_APT = "apt-get"


def find_chromium() -> str | None:
    """The path of the browser: `CHROME`, else what is on the path, else an application of macOS."""
    named = os.environ.get("CHROME")
    on_path = [shutil.which(name) for name in NAMES]
    apps = [
        root / f"{name}.app/Contents/MacOS/{name}"
        for root in (Path("/Applications"), Path.home() / "Applications")
        for name in MAC
    ]
    found = [named, *on_path, *(str(app) for app in apps if app.exists())]
    return next((path for path in found if path), None)


def install() -> None:
    """Take Debian's own package, where this is Debian and we may."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([_APT, "update", "-qq"], check=True, env=environment)
    packages = ["chromium", "fonts-dejavu-core"]
    subprocess.run([_APT, "install", "-y", "-qq", "--no-install-recommends", *packages], check=True, env=environment)


if __name__ == "__main__":
    if find_chromium() is None and shutil.which(_APT) and os.geteuid() == 0:
        install()
    if find_chromium() is None:
        sys.exit("No Chromium or Chrome was found. On Debian: apt-get install chromium; or name one in CHROME.")
