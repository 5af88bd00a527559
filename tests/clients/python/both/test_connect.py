"""The blocks of docs/connect.md run as they stand, but for the address and the key, where their library is installed."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Proxy

PAGE = (Path(__file__).parents[4] / "docs" / "connect.md").read_text("utf-8")
BLOCK = re.compile(r"^### (\S+)\n(?:(?!^#).)*?^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
BLOCKS = dict(BLOCK.findall(PAGE.split("\n## JavaScript")[0]))


def libraries(block: str) -> set[str]:
    """The packages that a block imports."""
    return {found.split(".")[0] for found in re.findall(r"^(?:from|import) (\S+)", block, flags=re.MULTILINE)}


INSTALLED = [name for name, block in BLOCKS.items() if all(map(importlib.util.find_spec, libraries(block)))]


def test_most_blocks_have_their_library_in_one_of_the_environments() -> None:
    assert len(BLOCKS) >= 10
    assert len(INSTALLED) >= 4


@pytest.mark.parametrize("name", INSTALLED)
def test_the_block_gets_an_answer(proxy: Proxy, name: str, tmp_path: Path) -> None:
    block = BLOCKS[name].replace("http://127.0.0.1:8080", proxy.url).replace('"any-key"', f'"{proxy.key}"')
    run = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "This is the sandbox" in run.stdout or "Paris" in run.stdout
