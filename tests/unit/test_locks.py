"""Lock files are closed under their own requirements, and the check of that notices when they are not."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def check(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / ".ci" / "check_locks.py"), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("written", "instead", "named"),
    [
        ("coverage[toml]==", "coverage==", "requires coverage[toml]"),  # as pip-compile writes it by default
        ("\nh11==", "\n#h11==", "requires h11"),
        ("starlette==", "starlette==0.", "starlette"),
    ],
)
def test_a_lock_file_that_is_not_closed_is_named_with_what_is_missing(
    tmp_path: Path, written: str, instead: str, named: str
) -> None:
    lock = (ROOT / "requirements-dev.txt").read_text("utf-8")
    assert written in lock
    broken = tmp_path / "requirements.txt"
    broken.write_text(lock.replace(written, instead), "utf-8")
    checked = check(broken)
    assert checked.returncode == 1
    assert "requirements.txt: not closed" in checked.stderr
    assert named in checked.stderr


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-build.txt"])
def test_the_lock_files_are_closed(name: str) -> None:
    checked = check(ROOT / name)
    assert checked.returncode == 0, checked.stderr
