"""Tools of a request, and which of them may be called: as clients write them → neutral ones."""

from dataclasses import dataclass, field
from typing import Any, Final

from proxy.api.http.requests import MAX_REPORTED, REPORTABLE
from proxy.api.openai import types as wire
from proxy.errors import InvalidRequest
from proxy.inference.request import Tool, ToolChoice

CUSTOM_INPUT: Final = "input"
"""The one argument of a custom tool."""
NO_TOOLS: Final = ToolChoice(names=frozenset())


@dataclass(frozen=True, slots=True)
class OfferedTools:
    """The tools of a request.

    Attributes:
        custom: names of those whose calls are answered as custom calls.
        legacy: they came in the retired field `functions`.
        dropped: sentences about tools that were left out.
    """

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = field(default_factory=ToolChoice)
    custom: frozenset[str] = frozenset()
    legacy: bool = False
    dropped: tuple[str, ...] = ()


def decode_tools(body: wire.ChatRequest, drop_hosted: bool) -> OfferedTools:
    """The tools of a request, and which of them may be called; hosted tools are left out or refused.

    Raises:
        InvalidRequest: there is a hosted tool, or the choice names a tool that is not offered, or requires a call of none.
    """
    legacy = bool(body.functions) and not body.tools
    tools: list[Tool] = []
    if legacy:
        tools += [function_tool(spec, f"functions[{index}]") for index, spec in enumerate(body.functions or ())]
    dropped: dict[str, None] = {}
    custom = set()
    for index, tool in enumerate(body.tools or ()):
        match tool:
            case wire.CustomTool():
                tools.append(custom_tool(tool.custom, f"tools[{index}].custom"))
                custom.add(tool.custom.name)
            case wire.HostedTool() if drop_hosted:
                kind = tool.type if REPORTABLE.match(tool.type) else "a hosted tool"
                dropped[f"tools: {kind} cannot run here and was left out"] = None
            case wire.HostedTool():
                param = f"tools[{index}].type"
                raise InvalidRequest(f"Invalid `{param}`: expected 'function' or 'custom'.", param=param)
            case _:
                tools.append(function_tool(tool.function, f"tools[{index}].function"))
    choice = _choice(body, {tool.name for tool in tools}, single=legacy or body.parallel_tool_calls is False)
    return OfferedTools(tuple(tools), choice, frozenset(custom), legacy, tuple(dropped)[:MAX_REPORTED])


def function_tool(spec: wire.FunctionSpec, path: str) -> Tool:
    """A function whose definition stands at a path."""
    return Tool(
        name=spec.name,
        description=(spec.description or "").strip(),
        parameters=spec.parameters,
        strict=bool(spec.strict),
        path=path,
        schema_path=f"{path}.parameters",
    )


def custom_tool(spec: wire.CustomSpec, path: str) -> Tool:
    """A custom tool, whose definition stands at a path, as one with a single string argument. The Responses API writes grammars flat."""
    argument: dict[str, Any] = {"type": "string"}
    match spec.format:
        case {"type": "grammar", "grammar": {"definition": str(definition), **rest}} | {
            "type": "grammar",
            "definition": str(definition),
            **rest,
        }:
            syntax = rest.get("syntax") if rest.get("syntax") in ("lark", "regex") else "following"
            argument["description"] = f"The input; it must match this {syntax} grammar:\n{definition}"
            if syntax == "regex":
                argument["pattern"] = f"^(?:{definition})$"
    parameters = {
        "type": "object",
        "properties": {CUSTOM_INPUT: argument},
        "required": [CUSTOM_INPUT],
        "additionalProperties": False,
    }
    return Tool(
        name=spec.name,
        description=(spec.description or "").strip(),
        parameters=parameters,
        strict=True,
        path=path,
        schema_path=f"{path}.format",
    )


def _choice(body: wire.ChatRequest, offered: set[str], *, single: bool) -> ToolChoice:
    # The retired `function_call` counts where there is no `tool_choice`.
    match body.function_call if body.tool_choice is None else body.tool_choice:
        case None | "auto":
            return ToolChoice(single=single)
        case "none":
            return NO_TOOLS
        case "required" | "any" as mode:
            if not offered:
                raise InvalidRequest(f"`tool_choice` is {mode!r}, but there are no `tools`.", param="tool_choice")
            return ToolChoice(required=True, single=single)
        case wire.ToolName(name=name):
            named, required, single = [(name, "function_call.name")], True, True
        case wire.NamedFunction() | wire.NamedCustom() as tool:
            named, required, single = [_named(tool, "tool_choice")], True, True
        case wire.AllowedToolsChoice(allowed_tools=allowed):
            path, required = "tool_choice.allowed_tools.tools", allowed.mode == "required"
            named = [_named(tool, f"{path}[{index}]") for index, tool in enumerate(allowed.tools)]
            if required and not named:
                raise InvalidRequest(f"`{path}` is empty; expected at least one tool.", param=path)
    for name, param in named:
        if name not in offered:
            raise InvalidRequest(f"`{param}` is {name[:128]!r}, which is not among the tools offered.", param=param)
    names = frozenset(name for name, _ in named)
    return ToolChoice(names, required=required, single=single) if names else NO_TOOLS


def _named(tool: wire.NamedFunction | wire.NamedCustom, path: str) -> tuple[str, str]:
    """The name of a tool, and where it stands."""
    name = tool.function.name if isinstance(tool, wire.NamedFunction) else tool.custom.name
    return name, f"{path}.{tool.type}.name"
