"""Check that lock files are closed: whatever a pinned package requires, extras included, is pinned too, in a version that fits.

Otherwise pip looks for the newest release of what is missing, which has no hash, and every installation fails from the day of that
release. Nothing is downloaded: requirements are read from the packages of the environment that runs this, which must have been
installed from these files.

    python .ci/check_locks.py requirements-dev.txt requirements-browser.txt    # installed together, so closed together
"""

import itertools
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ENVIRONMENTS = [
    {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.9",
        **platform,
        "platform_machine": machine,
    }
    for python in ("3.11", "3.12", "3.13", "3.14")
    for platform, machine in itertools.product(
        (
            {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
            {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
            {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"},
        ),
        ("x86_64", "aarch64"),
    )
]


class Pin:
    """One `name[extras]==version ; marker` of a lock file."""

    def __init__(self, line: str) -> None:
        pinned = Requirement(line)
        self.name = canonicalize_name(pinned.name)
        self.extras = pinned.extras
        (exactly,) = pinned.specifier
        self.version = Version(exactly.version)
        self.environments = [each for each in ENVIRONMENTS if not pinned.marker or pinned.marker.evaluate(each)]
        self.here = not pinned.marker or pinned.marker.evaluate()

    def requirements(self) -> Iterator[Requirement]:
        """What it requires wherever it is installed. None where it is for other machines and so not installed here."""
        try:
            found = metadata.distribution(self.name)
        except metadata.PackageNotFoundError:
            return
        if Version(found.version) == self.version:
            yield from map(Requirement, found.requires or ())

    def applies(self, required: Requirement, environment: dict[str, str]) -> bool:
        return required.marker is None or any(
            required.marker.evaluate({**environment, "extra": extra}) for extra in {"", *self.extras}
        )

    def meets(self, required: Requirement) -> bool:
        fits = required.specifier.contains(self.version, prereleases=True)
        return self.name == canonicalize_name(required.name) and fits and required.extras <= self.extras


def read_pins(files: Iterable[str]) -> list[Pin]:
    lines = itertools.chain.from_iterable(Path(file).read_text("utf-8").splitlines() for file in files)
    return [Pin(line.removesuffix("\\")) for line in lines if line.strip() and not line.startswith((" ", "#"))]


def errors(pins: list[Pin]) -> Iterator[str]:
    for pin in pins:
        if pin.here and not _installed(pin):
            yield f"{pin.name} {pin.version} is pinned and not installed: install the lock files first"
        for required in pin.requirements():
            needed = [each for each in pin.environments if pin.applies(required, each)]
            met = [each for other in pins if other.meets(required) for each in other.environments]
            if any(each not in met for each in needed):
                yield f"{pin.name} {pin.version} requires {required}, which is not pinned so"


def _installed(pin: Pin) -> bool:
    try:
        return Version(metadata.version(pin.name)) == pin.version
    except metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    if found := list(errors(read_pins(sys.argv[1:]))):
        sys.exit("\n".join([f"{' and '.join(sys.argv[1:])}: not closed; `make lock` makes them anew", *found]))
