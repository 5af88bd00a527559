"""Tools of a Responses request → neutral ones under names that are unique in all namespaces, and which of them may be called."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy.api.http.requests import REPORTABLE
from proxy.api.openai.responses import types as wire
from proxy.api.openai.tools import NO_TOOLS, custom_tool, function_tool
from proxy.errors import InvalidRequest, ProxyError
from proxy.inference.request import JsonObject, Tool, ToolChoice


@dataclass(frozen=True, slots=True)
class CalledTool:
    """How calls of a tool are written in answers."""

    name: str
    namespace: str | None = None
    custom: bool = False


class Tools:
    """The tools of a request under names that are unique in all namespaces.

    Attributes:
        offered: those that can run here.
        called: how their calls are written, by their neutral names.
        hosted: types of the others.
    """

    def __init__(self) -> None:
        self.offered: list[Tool] = []
        self.called: dict[str, CalledTool] = {}
        self.hosted: dict[str, None] = {}
        self._names: dict[tuple[str | None, str], str] = {}

    def add_all(self, tools: Sequence[wire.ToolDefinition], path: str, *, unique: bool) -> None:
        """Add tools whose list stands at a path. A second one of a name is refused if names must be unique, else left out, as in histories,
        which repeat what was offered before."""
        for index, tool in enumerate(tools):
            if isinstance(tool, wire.NamespaceDefinition):
                for number, inner in enumerate(tool.tools):
                    self._add(inner, tool.name, f"{path}[{index}].tools[{number}]", unique)
            else:
                self._add(tool, None, f"{path}[{index}]", unique)

    def _add(self, tool: wire.NamedDefinition, namespace: str | None, path: str, unique: bool) -> None:
        match tool:
            case wire.FunctionDefinition():
                made = function_tool(tool, path)
            case wire.CustomDefinition():
                made = custom_tool(tool, path)
            case wire.OtherKind():
                self.hosted[tool.type if REPORTABLE.match(tool.type) else "unknown"] = None
                return
        if (namespace, tool.name) in self._names:
            if not unique:
                return
            param = f"{path}.name"
            raise InvalidRequest(
                f"`{param}`: a second tool is named {tool.name[:128]!r}; names must differ.", param=param
            )
        name = tool.name if namespace is None else f"{namespace}__{tool.name}"
        while name in self.called:
            name += "_"
        self._names[namespace, tool.name] = name
        self.called[name] = CalledTool(tool.name, namespace, custom=isinstance(tool, wire.CustomDefinition))
        self.offered.append(replace(made, name=name))

    def name(self, namespace: str | None, name: str) -> str:
        """The neutral name of a tool that a history mentions; it need not be offered."""
        known = self._names.get((namespace, name))
        return known or (name if namespace is None else f"{namespace}__{name}")

    def choice(self, body: wire.ResponsesRequest) -> ToolChoice:
        """Which of them may be called. Raises InvalidRequest: a tool is chosen that is not offered."""
        single = body.parallel_tool_calls is False
        match body.tool_choice:
            case None | "auto":
                return ToolChoice(single=single)
            case "none":
                return NO_TOOLS
            case "required":
                if not self.offered:
                    raise self._none_offered("`tool_choice` is 'required', but there are no `tools` that can be called")
                return ToolChoice(required=True, single=single)
            case wire.ToolReference() as named:
                return ToolChoice(frozenset({self._chosen(named, "tool_choice.name")}), required=True, single=True)
            case wire.ToolSubset() as allowed:
                path, required = "tool_choice.tools", allowed.mode == "required"
                names = frozenset(
                    self._chosen(tool, f"{path}[{index}].name")
                    for index, tool in enumerate(allowed.tools)
                    if isinstance(tool, wire.ToolReference)
                )
                if required and not names:
                    raise self._none_offered(f"`{path}` holds no tool that can be called")
                return ToolChoice(names, required=required, single=single) if names else NO_TOOLS
            case wire.OtherKind(type=kind):
                message = f"`tool_choice` asks for {kind[:40]!r}, which cannot run here."
                raise InvalidRequest(message, param="tool_choice", code="unsupported_tool")

    def _none_offered(self, message: str) -> ProxyError:
        return InvalidRequest(f"{message}.", param="tool_choice", code="unsupported_tool" if self.hosted else None)

    def _chosen(self, tool: wire.ToolReference, param: str) -> str:
        """A bare name may be that of a tool in a namespace if no other has it."""
        if (known := self._names.get((tool.namespace, tool.name))) is not None:
            return known
        others = [neutral for (_, name), neutral in self._names.items() if name == tool.name]
        if tool.namespace is None and len(others) == 1:
            return others[0]
        message = f"`{param}` is {tool.name[:128]!r}, which is not among the tools offered."
        raise InvalidRequest(message, param=param)


def echoed_tool(tool: JsonObject) -> JsonObject:
    """A tool as the response repeats it."""
    if tool.get("type") == "namespace":
        return {"description": "", **tool, "tools": [_with_strict(inner) for inner in tool["tools"]]}
    return _with_strict(tool)


def _with_strict(tool: JsonObject) -> JsonObject:
    return {**tool, "strict": True} if tool.get("type") == "function" and tool.get("strict") is None else tool
