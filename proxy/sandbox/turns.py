"""The order of turns that the models behind insist on (contract narrative.md, section Messages)."""

from collections.abc import Sequence

from proxy.sandbox.bodies import Text, ToolResult, ToolUse, Turn
from proxy.sandbox.refusal import Refusal


def check_turns(turns: Sequence[Turn]) -> None:
    """Refuses a conversation that breaks the order.

    System turns come first; then user and assistant turns alternate, beginning and ending with the user's; every call of an
    assistant turn is answered in the very next user turn, answers before text; the ids of calls are unique.

    The sentences say "call" and "result", not the names of the blocks: a model that does not know the blocks at all is
    another fault with other words.

    Raises:
        Refusal: 400 that names the path.
    """
    spoken = _after_system(turns)
    if spoken == len(turns):
        raise Refusal(400, "messages: there must be a user turn")
    seen: set[str] = set()
    for at in range(spoken, len(turns)):
        expected = "user" if (at - spoken) % 2 == 0 else "assistant"
        if turns[at].role != expected:
            raise Refusal(400, f"messages[{at}].role: turns must alternate, expected {expected}, got {turns[at].role}")
        before = turns[at - 1] if at > spoken else None
        if expected == "user":
            _check_user(at, turns[at], before)
        else:
            _check_assistant(at, turns[at], seen)
    if turns[-1].role == "assistant":
        raise Refusal(400, f"messages[{len(turns) - 1}]: the conversation must end with a user turn")


def _after_system(turns: Sequence[Turn]) -> int:
    for at, turn in enumerate(turns):
        if turn.role != "system":
            return at
        for block, content in enumerate(turn.content):
            if not isinstance(content, Text):
                raise Refusal(400, f"messages[{at}].content[{block}]: a system turn holds text only")
    return len(turns)


def _check_assistant(at: int, turn: Turn, seen: set[str]) -> None:
    for block, content in enumerate(turn.content):
        if isinstance(content, ToolResult):
            raise Refusal(400, f"messages[{at}].content[{block}]: results belong in a user turn")
        if isinstance(content, ToolUse):
            if content.tool_use_id in seen:
                raise Refusal(400, f"messages[{at}].content[{block}]: the id {content.tool_use_id!r} is not unique")
            seen.add(content.tool_use_id)


def _check_user(at: int, turn: Turn, before: Turn | None) -> None:
    due = [call.tool_use_id for call in before.calls] if before else []
    text_seen = False
    for block, content in enumerate(turn.content):
        where = f"messages[{at}].content[{block}]"
        if isinstance(content, ToolUse):
            raise Refusal(400, f"{where}: calls belong in an assistant turn")
        if isinstance(content, ToolResult):
            if text_seen:
                raise Refusal(400, f"{where}: results come before text")
            if content.tool_use_id not in due:
                raise Refusal(400, f"{where}: {content.tool_use_id!r} answers no open call of the turn before")
            due.remove(content.tool_use_id)
        text_seen = text_seen or isinstance(content, Text)
    if due:
        raise Refusal(400, f"messages[{at}]: the call {due[0]!r} of the turn before is not answered")
