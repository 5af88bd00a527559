"""Command lines for agents, as their users run them: in a folder and with a home of their own, offline but for the proxy."""

import base64
import os
import subprocess
from pathlib import Path

PROGRAMS = Path(__file__).parents[1] / "node/node_modules/.bin"
"""Where the programs of package.json are; the environment that runs the tests brings their Node."""
TIMEOUT_S = 500
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""A PNG file of one pixel."""


def run_agent(home: Path, arguments: list[str], environ: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a program of package.json to its end, in the folder `work` of its home.

    Args:
        arguments: the first is the program's name.
        environ: its whole environment but for HOME and PATH.
    """
    work = home / "work"
    work.mkdir(exist_ok=True)
    return subprocess.run(
        [str(PROGRAMS / arguments[0]), *arguments[1:]],
        cwd=work,
        env={"HOME": str(home), "PATH": os.environ["PATH"], **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def save_picture(home: Path) -> str:
    """Put a picture in the folder `work` of an agent's home, and return its path."""
    file = home / "work/dot.png"
    file.parent.mkdir()
    file.write_bytes(PICTURE)
    return str(file)
