"""The checks on tools and `tool_choice`: first vLLM's, then mistral-common's (1.10.0; the texts are theirs)."""

from typing import Any

from proxy.demo.conversation import NAME, name_fault
from proxy.demo.parameters import Body
from proxy.demo.refusal import Refusal, extra_key_refused, field_refused, model_refused, parameter_refused
from proxy.demo.schema import schema_fault

_TOOL_KEYS = frozenset({"type", "function"})
_FUNCTION_KEYS = frozenset({"name", "description", "parameters", "strict"})


def tools_are_not_empty(body: Body) -> None:
    """Refuse `tools: []`; null is the same as none."""
    if body.get("tools") == []:
        message = "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely."
        raise parameter_refused(message, "tools")


def tool_choice_is_possible(body: Body) -> None:
    """Refuse a `tool_choice` that vLLM does not know, or that its tools cannot meet."""
    choice = body.get("tool_choice")
    if choice is None or choice == "none":
        return
    if not body.get("tools"):
        raise parameter_refused("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if isinstance(choice, dict):
        _check_named_choice(choice, body["tools"])
    elif choice not in ("auto", "required"):
        message = (
            f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or "required" are supported.'
        )
        raise parameter_refused(message, "tool_choice")


def _check_named_choice(choice: dict[str, Any], tools: Any) -> None:
    function = choice.get("function")
    if not isinstance(function, dict) or not function:
        message = (
            f"Invalid value for `function`: `{function}` in `tool_choice`! "
            'Correct usage: `{"type": "function", "function": {"name": "my_function"}}`'
        )
        raise parameter_refused(message, "tool_choice.function")
    names = [_function(tool).get("name") for tool in tools] if isinstance(tools, list) else []
    if function.get("name") not in names:
        message = "The tool specified in `tool_choice` does not match any of the specified `tools`"
        raise parameter_refused(message, "tool_choice")


def _function(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    return function if isinstance(function, dict) else {}


def tools_are_functions(body: Body) -> None:
    """Refuse tools that are not `{"type": "function", "function": {…}}`; the type may be left out."""
    tools = body.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        raise field_refused("list_type", "tools", "Input should be a valid list", tools)
    for index, tool in enumerate(tools):
        _check_tool(tool, f"tools.{index}")


def _check_tool(tool: Any, place: str) -> None:
    if not isinstance(tool, dict):
        raise field_refused("model_attributes_type", place, "Input should be a valid dictionary", tool)
    if tool.get("type", "function") != "function":
        raise field_refused("literal_error", f"{place}.type", "Input should be 'function'", tool["type"])
    function = tool.get("function")
    if not isinstance(function, dict):
        raise field_refused("missing", f"{place}.function", "Field required", tool)
    if not isinstance(function.get("name"), str):
        raise field_refused("string_type", f"{place}.function.name", "Input should be a valid string", function)
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        expected = "Input should be a valid dictionary"
        raise field_refused("dict_type", f"{place}.function.parameters", expected, parameters)


def tools_have_no_extra_keys(body: Body) -> None:
    """Refuse keys beside those of mistral-common's Tool and Function, a missing schema, a null description."""
    for tool in body.get("tools") or ():
        function = tool["function"]
        for key in tool:
            if key not in _TOOL_KEYS:
                raise extra_key_refused("Tool", key, tool[key])
        for key in function:
            if key not in _FUNCTION_KEYS:
                raise extra_key_refused("Tool", f"function.{key}", function[key])
        if not isinstance(function.get("description", ""), str):
            _wrong(function, "description", "Input should be a valid string", "string_type")
        if "parameters" not in function:
            raise model_refused("Tool", "function.parameters", "Field required", "missing", function)
        if function["parameters"] is None:
            _wrong(function, "parameters", "Input should be a valid dictionary", "dict_type")
        # vLLM drops `strict: null` before mistral-common sees it
        if not isinstance(function.get("strict"), bool | None):
            _wrong(function, "strict", "Input should be a valid boolean", "bool_type")


def _wrong(function: dict[str, Any], key: str, message: str, kind: str) -> None:
    raise model_refused("Tool", f"function.{key}", message, kind, function[key])


def tools_have_valid_schemas(body: Body) -> None:
    """Refuse a schema that is not Draft 7, and a name that a grammar could not write."""
    for tool in body.get("tools") or ():
        fault = schema_fault(tool["function"]["parameters"])
        if fault is not None:
            raise Refusal(f"Invalid tool schema: {fault}")
        if not NAME.fullmatch(tool["function"]["name"]):
            raise Refusal(name_fault(tool["function"]["name"]))
