"""`tools`, `tool_choice` and their retired forerunners → the menu of tools that a request offers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy.catalog import ModelCard
from proxy.errors import InvalidRequest
from proxy.schemas import Budget, CompiledSchema, SchemaLimits, compile_parameters, without_bounds
from proxy.translate.tools import OfferedTool, ToolMenu
from proxy.wire import openai as chat


@dataclass(frozen=True, slots=True)
class _Choice:
    """What `tool_choice` comes to: which tools may be called (None: any), whether one must be, whether one at most may be."""

    names: frozenset[str] | None = None
    required: bool = False
    single: bool = False


_NONE = _Choice(names=frozenset())


def menu_of(  # noqa: PLR0913  limits of three kinds
    request: chat.ChatRequest,
    names: Mapping[str, str],
    card: ModelCard,
    *,
    limits: SchemaLimits,
    max_tools: int,
    budget: Budget,
) -> ToolMenu | None:
    """The tools that may be called, None when there are none.

    Args:
        names: the client's tool name → its name upstream.
        budget: the work that all schemas of the request may cause.

    Raises:
        InvalidRequest: a tool, its schema or the choice is wrong; `param` is its path.
    """
    field, specs = (
        ("tools", [tool.function for tool in request.tools])
        if request.tools
        else ("functions", request.functions or [])
    )
    _refuse_faulty(field, specs, max_tools)
    choice = _choice(request, {spec.name for spec in specs})
    if not specs or choice is _NONE:
        return None
    tools = [
        OfferedTool(
            name=spec.name,
            upstream_name=names[spec.name],
            description=(spec.description or "").strip(),
            parameters=in_dialect(
                compile_parameters(
                    spec.parameters,
                    param=_path(field, index, "parameters"),
                    dialect=card.schema_keywords,
                    limits=limits,
                    budget=budget,
                ),
                card,
            ),
            strict=bool(spec.strict),
        )
        for index, spec in enumerate(specs)
        if choice.names is None or spec.name in choice.names
    ]
    single = choice.single or request.parallel_tool_calls is False or field == "functions"
    return ToolMenu(
        tuple(tools),
        required=choice.required,
        single=single,
        encoding=card.tool_encoding,
        counted=card.schema_bounds,
    )


def in_dialect(compiled: CompiledSchema, card: ModelCard) -> CompiledSchema:
    """A compiled schema as a model's upstream takes it."""
    return compiled if card.schema_bounds else without_bounds(compiled)


def _path(field: str, index: int, name: str) -> str:
    return f"tools[{index}].function.{name}" if field == "tools" else f"functions[{index}].{name}"


def _refuse_faulty(field: str, specs: Sequence[chat.FunctionSpec], max_tools: int) -> None:
    if len(specs) > max_tools:
        raise InvalidRequest(f"`{field}` holds {len(specs)} tools; expected {max_tools} at most.", param=field)
    seen: set[str] = set()
    for index, spec in enumerate(specs):
        path = _path(field, index, "name")
        if not spec.name.strip():
            raise InvalidRequest(f"`{path}` is blank; expected a name.", param=path)
        if spec.name in seen:
            raise InvalidRequest(f"`{path}`: a second tool is named {spec.name!r}; names must differ.", param=path)
        seen.add(spec.name)


def _choice(request: chat.ChatRequest, offered: set[str]) -> _Choice:
    wanted = request.tool_choice
    match wanted:
        case None:
            return _function_call_choice(request.function_call, offered)
        case "auto":
            return _Choice()
        case "none":
            return _NONE
        case "required" | "any":
            if not offered:
                raise InvalidRequest(f"`tool_choice` is {wanted!r}, but there are no `tools`.", param="tool_choice")
            return _Choice(required=True)
        case chat.NamedTool():
            return _named(wanted.function.name, offered, "tool_choice.function.name")
        case chat.AllowedToolsChoice(allowed_tools=allowed):
            return _allowed(allowed, offered)
    raise AssertionError(wanted)


def _function_call_choice(wanted: str | chat.FunctionName | None, offered: set[str]) -> _Choice:
    if wanted == "none":
        return _NONE
    if isinstance(wanted, chat.FunctionName):
        return _named(wanted.name, offered, "function_call.name")
    return _Choice()


def _named(name: str, offered: set[str], param: str) -> _Choice:
    if name not in offered:
        raise InvalidRequest(f"`{param}` is {name[:128]!r}, which is not among the tools offered.", param=param)
    return _Choice(frozenset({name}), required=True, single=True)


def _allowed(allowed: chat.AllowedTools, offered: set[str]) -> _Choice:
    names = [tool.function.name for tool in allowed.tools]
    for index, name in enumerate(names):
        if name not in offered:
            param = f"tool_choice.allowed_tools.tools[{index}].function.name"
            raise InvalidRequest(f"`{param}` is {name[:128]!r}, which is not among the tools offered.", param=param)
    required = allowed.mode == "required"
    if not names:
        if required:
            raise InvalidRequest(
                "`tool_choice.allowed_tools.tools` is empty; expected at least one tool.",
                param="tool_choice.allowed_tools.tools",
            )
        return _NONE
    return _Choice(frozenset(names), required=required)
