"""Tools of a request, and which of them may be called → neutral ones. Source: contract `anthropic-messages.md`, section Tools."""

import re
from collections.abc import Sequence
from typing import Any, Final

from proxy.api.anthropic.types import ToolChoiceSpec, ToolSpec
from proxy.errors import InvalidRequest
from proxy.inference.jsontext import dump_json
from proxy.inference.request import Tool, ToolChoice

_MAX_SHOWN: Final = 64


def _schema(*required: str, **arguments: str | tuple[str, ...]) -> dict[str, Any]:
    """The schema of arguments, each by its JSON type or the texts it may be; the items of arrays are integers."""
    properties: dict[str, Any] = {}
    for name, kind in arguments.items():
        properties[name] = {"type": "string", "enum": list(kind)} if isinstance(kind, tuple) else {"type": kind}
        if kind == "array":
            properties[name]["items"] = {"type": "integer"}
    return {"type": "object", "properties": properties, "required": list(required)}


_FILE: Final = {
    **dict.fromkeys(("path", "file_text", "old_str", "new_str", "insert_text"), "string"),
    "insert_line": "integer",
    "view_range": "array",
}
_COMMANDS: Final = ("view", "create", "str_replace", "insert")
_EDIT: Final = (
    "View and edit text files: `view` a file or folder (`view_range` are its first and last line), `create` it with `file_text`, replace "
    "the only `old_str` by `new_str`, or `insert` `insert_text` after `insert_line`."
)
_BASH: Final = (
    "Run a command in a shell that stays open, or `restart` it.",
    _schema(command="string", restart="boolean"),
)
_OLD_EDITOR: Final = (_EDIT, _schema("command", "path", command=(*_COMMANDS, "undo_edit"), **_FILE))
_EDITOR: Final = (_EDIT, _schema("command", "path", command=_COMMANDS, **_FILE))
_MEMORY: Final = (
    f"Files under /memories, which last from one conversation to the next. {_EDIT} `delete` removes `path`, and `rename` moves `old_path` "
    "to `new_path`.",
    _schema("command", command=(*_COMMANDS, "delete", "rename"), old_path="string", new_path="string", **_FILE),
)
_CLIENT_TOOLS: Final = {
    "bash_20241022": _BASH,
    "bash_20250124": _BASH,
    "text_editor_20241022": _OLD_EDITOR,
    "text_editor_20250124": _OLD_EDITOR,
    "text_editor_20250429": _EDITOR,
    "text_editor_20250728": _EDITOR,
    "memory_20250818": _MEMORY,
}
"""Tools that clients run and whose schemas the API knows: their descriptions and schemas."""
_SEARCH: Final = re.compile(r"tool_search_tool_(?:regex|bm25)")


def decode_tools(
    given: Sequence[tuple[str, ToolSpec]], loaded: frozenset[str]
) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """The tools on offer, and sentences about those that were left out. Raises InvalidRequest: a tool runs on servers, or has no schema.

    Args:
        given: each with its path.
        loaded: names of the deferred tools that the messages refer to.
    """
    searched = any(_SEARCH.match(spec.type or "") for _, spec in given)
    tools: list[Tool] = []
    for path, spec in given:
        if _SEARCH.match(spec.type or "") or (spec.defer_loading and not searched and spec.name not in loaded):
            continue
        known = _CLIENT_TOOLS.get(spec.type or "")
        if known is None and spec.type not in (None, "custom"):
            raise invalid(f"{path}.type", f"tools of type {(spec.type or '')[:_MAX_SHOWN]!r} cannot run here")
        if spec.name is None:
            raise invalid(f"{path}.name", "the field is required")
        if known is not None:
            tools.append(Tool(spec.name, *known, path=path, schema_path=path))
            continue
        if spec.input_schema is None:
            raise invalid(f"{path}.input_schema", "the field is required")
        description = (spec.description or "").strip()
        if spec.input_examples:
            examples = "\n".join(dump_json(example) for example in spec.input_examples)
            description = f"{description}\n\nExamples of its input:\n{examples}".strip()
        schema_path = f"{path}.input_schema"
        tools.append(Tool(spec.name, description, spec.input_schema, bool(spec.strict), path, schema_path))
    return tuple(tools), ("tools: the tool search cannot run here, so all tools are offered",) if searched else ()


def decode_tool_choice(choice: ToolChoiceSpec | None, offered: frozenset[str]) -> ToolChoice:
    """The choice of tools. Raises InvalidRequest: it names a tool that is not offered, or requires a call of none."""
    if choice is None:
        return ToolChoice()
    single = bool(choice.disable_parallel_tool_use)
    if choice.type == "none":
        return ToolChoice(names=frozenset())
    if choice.type == "tool":
        if choice.name is None or choice.name not in offered:
            raise invalid("tool_choice.name", f"{(choice.name or '')[:_MAX_SHOWN]!r} is not among the tools offered")
        return ToolChoice(frozenset({choice.name}), required=True, single=single)
    if choice.type == "any" and not offered:
        raise invalid("tool_choice", "'any' needs `tools`")
    return ToolChoice(required=choice.type == "any", single=single)


def invalid(param: str, problem: str) -> InvalidRequest:
    """The error of a field with that path. `problem` follows a colon, and has no full stop."""
    return InvalidRequest(f"Invalid `{param}`: {problem}.", param=param)
