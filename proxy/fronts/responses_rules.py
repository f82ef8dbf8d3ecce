"""
The front's own rules on a request to the Responses API: what a chat cannot say, and what is done about it.

A rule changes one thing and returns the path in the client's body of the first place that it changed, or None.
What only changes its spelling on the way to a chat is no rule (responses_chat.py).
"""

from collections.abc import Callable
from typing import Any, Final

from msgspec import Raw

from proxy.errors import InvalidRequest
from proxy.fronts.responses_asked import Asked, Called, Json, Placed, kind_of, tools_at
from proxy.wire.chat import encode

Rule = Callable[[Asked], str | None]

#: Tools that a chat can offer once the rules before have run.
_OFFERED: Final = frozenset({"function", "custom"})

#: Items that a chat can say. `shell_call` and others belong to tools that are not offered.
_SAID: Final = frozenset(
    {
        *("message", "reasoning", "function_call", "function_call_output"),
        *("custom_tool_call", "custom_tool_call_output", "local_shell_call", "local_shell_call_output"),
    }
)

#: Items that OpenAI's servers or tools of theirs leave behind.
#: Source: openai-python 3.54.0, types/responses/response_input_item.py.
BUILT_IN_ITEMS: Final = frozenset(
    {
        *("file_search_call", "web_search_call", "image_generation_call", "code_interpreter_call"),
        *("computer_call", "computer_call_output", "shell_call", "shell_call_output"),
        *("apply_patch_call", "apply_patch_call_output", "mcp_call", "mcp_list_tools"),
        *("mcp_approval_request", "mcp_approval_response", "tool_search_call", "tool_search_output"),
        *("program", "program_output"),
    }
)

#: Members that say how an answer is kept, found again or billed, and change nothing in it.
_OF_THE_SERVICE: Final = frozenset(
    {
        *("store", "metadata", "client_metadata", "include", "service_tier", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "stream_options", "max_tool_calls"),
        *("previous_response_id", "conversation", "prompt", "background", "moderation"),
    }
)

#: Members that are asked of the model server in the same words.
SAME_IN_CHAT: Final = (
    *("model", "stream", "temperature", "top_p", "parallel_tool_calls", "user"),
    # of no Responses API but vLLM's
    *("seed", "stop", "presence_penalty", "frequency_penalty", "repetition_penalty", "top_k", "min_p", "priority"),
    *("chat_template_kwargs", "skip_special_tokens", "logit_bias", "ignore_eos", "min_tokens"),
)

#: Members that `responses_chat` reads.
_READ: Final = frozenset({"instructions", "tool_choice", "text", "reasoning", "max_output_tokens", "top_logprobs"})

LOCAL_SHELL: Final = "local_shell"

#: The arguments of Codex's and OpenAI's `exec` action, but for its type.
_SHELL_PARAMETERS: Final = Raw(
    encode(
        {
            "type": "object",
            "properties": {
                "command": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "The program and its arguments",
                },
                "working_directory": {"type": "string"},
                "timeout_ms": {"type": "integer"},
                "env": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            "required": ["command"],
        }
    )
)


def listed_tools_to_tools(asked: Asked) -> str | None:
    """Tools that stand in `input` as `additional_tools` are offered like the others (F1)."""
    listed = [item for item in asked.items if kind_of(item.value) == "additional_tools"]
    for item in listed:
        asked.tools += tools_at(f"{item.path}.tools", item.value.get("tools"))
    asked.items = [item for item in asked.items if kind_of(item.value) != "additional_tools"]
    return listed[0].path if listed else None


def namespace_to_names(asked: Asked) -> str | None:
    """Tools of a `namespace` are called NAMESPACE__NAME; its description goes before that of its first tool (F2)."""
    changed = next((tool.path for tool in asked.tools if tool.value["type"] == "namespace"), None)
    if changed is not None:
        taken = _names_of(asked.tools)
        asked.tools = [inner for tool in asked.tools for inner in _without_namespace(tool, asked.names, taken)]
    for item in asked.items:
        if isinstance(namespace := item.value.get("namespace"), str) and isinstance(
            name := item.value.get("name"), str
        ):
            item.value["name"] = _joined(namespace, name)
            changed = changed or item.path
    choice = asked.members.get("tool_choice")
    for chosen in _choices(choice):
        if isinstance(namespace := chosen.get("namespace"), str) and isinstance(name := chosen.get("name"), str):
            chosen["name"] = _joined(namespace, name)
            changed = changed or "tool_choice"
    return changed


def _names_of(tools: list[Placed]) -> frozenset[str]:
    """Return the names of the tools that a chat can offer as they are."""
    names = (tool.value.get("name") for tool in tools if tool.value["type"] in _OFFERED)
    return frozenset(name for name in names if isinstance(name, str))


def _without_namespace(tool: Placed, names: dict[str, Called], taken: frozenset[str]) -> list[Placed]:
    if tool.value["type"] != "namespace":
        return [tool]
    namespace, about = tool.value.get("name"), tool.value.get("description")
    if not isinstance(namespace, str):
        raise InvalidRequest("A namespace needs a `name` that is a string.", param=f"{tool.path}.name")
    inner = tools_at(f"{tool.path}.tools", tool.value.get("tools"))
    for path, value in inner:
        name = value.get("name")
        if not isinstance(name, str):
            raise InvalidRequest("A tool needs a `name` that is a string.", param=f"{path}.name")
        value["name"] = _joined(namespace, name)
        kind = "custom_tool_call" if value["type"] == "custom" else "function_call"
        called = Called(kind, name, namespace)
        # The same tool again is left to the rules of the chat.
        if value["name"] in taken or names.setdefault(value["name"], called) != called:
            raise InvalidRequest(f"Two tools would be called `{value['name'][:80]}`.", param=path)
    if inner and isinstance(about, str) and about:
        first = inner[0].value
        first["description"] = _paragraphs(f"{namespace}: {about}", first.get("description"))
    return inner


def _joined(namespace: str, name: str) -> str:
    # Codex's namespaces of MCP servers end in two underscores themselves.
    return f"{namespace}{name}" if namespace.endswith("__") else f"{namespace}__{name}"


def _choices(choice: Any) -> list[Json]:
    """Return the objects by which a choice names tools."""
    if not isinstance(choice, dict):
        return []
    listed = choice.get("tools")
    return [choice, *(tool for tool in listed if isinstance(tool, dict))] if isinstance(listed, list) else [choice]


def local_shell_to_function(asked: Asked) -> str | None:
    """The tool `local_shell`, which the client runs, is a function with the arguments of its action (F3)."""
    changed: str | None = None
    taken = _names_of(asked.tools)
    for i, (path, tool) in enumerate(asked.tools):
        if tool["type"] == "local_shell":
            if LOCAL_SHELL in taken:
                raise InvalidRequest(f"Two tools would be called `{LOCAL_SHELL}`.", param=path)
            function = {"type": "function", "name": LOCAL_SHELL, "parameters": _SHELL_PARAMETERS}
            asked.tools[i] = Placed(path, {**function, "description": "Run a command on the user's machine."})
            asked.names[LOCAL_SHELL] = Called("local_shell_call", LOCAL_SHELL)
            changed = changed or path
    for chosen in _choices(asked.members.get("tool_choice")):
        if chosen.get("type") == "local_shell":
            chosen |= {"type": "function", "name": LOCAL_SHELL}
            changed = changed or "tool_choice"
    return changed


def grammar_to_description(asked: Asked) -> str | None:
    """The grammar of a custom tool's input is written into its description: nothing enforces it (F4)."""
    changed: str | None = None
    for path, tool in asked.tools:
        form = tool.get("format")
        if tool["type"] != "custom" or not isinstance(form, dict) or form.get("type") != "grammar":
            continue
        syntax, grammar = form.get("syntax"), form.get("definition")
        if isinstance(grammar, str) and grammar:
            told = f"The input follows this grammar ({syntax}):\n{grammar}"
            tool["description"] = _paragraphs(tool.get("description"), told)
        del tool["format"]
        changed = changed or path
    return changed


def _paragraphs(*texts: Any) -> str:
    return "\n\n".join(text for text in texts if isinstance(text, str) and text)


def built_in_tool_removed(asked: Asked) -> str | None:
    """A tool that OpenAI's servers run (web_search, mcp…), or whose calls a chat cannot say, is not offered (F5)."""
    foreign = [tool for tool in asked.tools if tool.value["type"] not in _OFFERED]
    asked.tools = [tool for tool in asked.tools if tool.value["type"] in _OFFERED]
    return foreign[0].path if foreign else None


def built_in_choice_removed(asked: Asked) -> str | None:
    """A `tool_choice` of a tool that is not offered is left to the model (F6)."""
    choice = asked.members.get("tool_choice")
    if not isinstance(choice, dict) or choice.get("type") in ("function", "custom", "allowed_tools"):
        return None
    if not isinstance(choice.get("type"), str):
        raise InvalidRequest("`tool_choice` needs a `type` that is a string.", param="tool_choice.type")
    del asked.members["tool_choice"]
    return "tool_choice"


def built_in_item_removed(asked: Asked) -> str | None:
    """
    Items that OpenAI's own tools leave in a history are left out: a chat cannot say them (F7).

    Raises:
        InvalidRequest: an item is of a type that no table here knows.
    """
    for path, item in asked.items:
        kind = kind_of(item)
        if kind not in _SAID and kind not in BUILT_IN_ITEMS:
            raise InvalidRequest(f"Unknown type of item `{kind[:40]}`.", param=f"{path}.type")
    foreign = [item for item in asked.items if kind_of(item.value) in BUILT_IN_ITEMS]
    asked.items = [item for item in asked.items if kind_of(item.value) in _SAID]
    return foreign[0].path if foreign else None


def hidden_reasoning_removed(asked: Asked) -> str | None:
    """Reasoning without a text is left out: what is encrypted can be read by who encrypted it (F8)."""
    hidden = [item for item in asked.items if kind_of(item.value) == "reasoning" and not thoughts_of(item.value)]
    if not hidden:
        return None
    left_out = set(map(id, hidden))
    asked.items = [item for item in asked.items if id(item) not in left_out]
    return hidden[0].path


def thoughts_of(item: Json) -> str:
    """Return the text of a reasoning item: what was thought if it is there, else its summary."""
    for name in ("content", "summary"):
        parts = item.get(name)
        texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        if said := _paragraphs(*texts):
            return said
    return ""


def truncation_removed(asked: Asked) -> str | None:
    """`truncation: auto` is not done: a history that is too long is an error, as without it (F9)."""
    return "truncation" if asked.members.pop("truncation", None) not in (None, "disabled") else None


def verbosity_removed(asked: Asked) -> str | None:
    """`text.verbosity` is left out: Mistral's models have no such setting (F10)."""
    text = asked.members.get("text")
    if not isinstance(text, dict) or text.pop("verbosity", None) is None:
        return None
    return "text.verbosity"


def unknown_members_removed(asked: Asked) -> str | None:
    """Members that neither the Responses API nor vLLM's sampling knows are left out (F11)."""
    known = _OF_THE_SERVICE.union(SAME_IN_CHAT, _READ)
    foreign = [name for name in asked.members if name not in known]
    for name in foreign:
        del asked.members[name]
    return foreign[0] if foreign else None


#: In the order in which they run.
RESPONSES_RULES: Final[tuple[Rule, ...]] = (
    listed_tools_to_tools,
    namespace_to_names,
    local_shell_to_function,
    grammar_to_description,
    built_in_tool_removed,
    built_in_choice_removed,
    built_in_item_removed,
    hidden_reasoning_removed,
    truncation_removed,
    verbosity_removed,
    unknown_members_removed,
)
