"""The sandbox's directive, as text for a user turn: what the scripted model does (docs/sandbox.md)."""

import json
from typing import Any


def script(**directive: Any) -> str:
    """`script(text="Hi.")`, `script(fail="…")`, `script(output={…})` and so on, as a message to send."""
    return f"[[sandbox {json.dumps(directive)}]]"
