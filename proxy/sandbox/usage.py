"""Token counts: about four characters a token, so that they can be foretold."""

from collections.abc import Sequence

from proxy.sandbox.bodies import Text, ToolUse, Turn
from proxy.sandbox.jsontext import dumps

_CHARACTERS = 4


def prompt_tokens(turns: Sequence[Turn], schema_size: int) -> int:
    """Tokens of the messages and the output schema together."""
    return tokens_of(schema_size + sum(_size(turn) for turn in turns))


def tokens_of(size: int) -> int:
    """Tokens of a text of so many characters, at least one."""
    return max(1, -(-size // _CHARACTERS))


def _size(turn: Turn) -> int:
    size = 0
    for block in turn.content:
        if isinstance(block, Text):
            size += len(block.text)
        elif isinstance(block, ToolUse):
            size += len(block.name) + len(dumps(block.input))
        else:
            size += len(block.text)
    return size
