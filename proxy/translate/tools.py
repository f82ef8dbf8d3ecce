"""Rules on the tools a request offers."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from msgspec import UNSET, Raw

from proxy.errors import InvalidRequest
from proxy.translate.chat import Chat, Draft, JsonPath, Tool, only_with, path_text, read_json
from proxy.translate.schema import draft7
from proxy.wire.body import split_list
from proxy.wire.chat import decode, encode, is_null
from proxy.wire.ids import nine_char_digest
from proxy.wire.tool import canonical_name

# In a definition, a call and a tool message alike.
# Source: mistral_common 1.13.1, protocol/instruct/validator.py.
_LEGAL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ILLEGAL_CHARACTER = re.compile(r"[^A-Za-z0-9_-]")

_NO_PARAMETERS = {"type": "object", "properties": {}}
_FREE_TEXT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


@only_with("functions", "function_call")
def functions_to_tools(chat: Chat) -> JsonPath | None:
    """The legacy `functions` and `function_call` become `tools` and `tool_choice`; vLLM ignores them (Q2)."""
    functions, choice = chat.read("functions"), chat.read("function_call")
    changed = chat.drop("functions", "function_call")
    if isinstance(functions, list) and functions and chat.read("tools") in (UNSET, None, []):
        tools = [{"type": "function", "function": function} for function in functions]
        chat.members["tools"] = Raw(encode(tools))
        chat.legacy_functions = True
    if choice is not UNSET and choice is not None and "tool_choice" not in chat.members:
        chat.members["tool_choice"] = {"type": "function", "function": choice} if isinstance(choice, dict) else choice
    return changed


@only_with("tools", "functions")
def read_tools(chat: Chat) -> JsonPath | None:
    """
    Definitions are taken apart, those in canonical form stay JSON text; changes nothing (Q18).

    Raises:
        InvalidRequest: `tools` is not a list of objects.
    """
    raw = chat.members.get("tools", UNSET)
    if raw is UNSET or is_null(raw):
        return None
    for i, item in enumerate(split_list(raw, "tools")):
        name = canonical_name(item)
        draft = read_json(item, ("tools", i)) if name is None else None
        if name is None and not isinstance(draft, dict):
            raise InvalidRequest("A tool must be an object.", param=f"tools[{i}]")
        chat.tools.append(Tool(name or "", item, draft))
    return None


def _drafts(chat: Chat) -> Iterator[tuple[int, Tool, Draft]]:
    """The definitions that are not canonical, with their place."""
    if chat.offer is not None:
        return
    for i, tool in enumerate(chat.tools):
        if tool.draft is not None:
            yield i, tool, tool.draft


@only_with("tools", "functions")
def flat_tool_to_nested(chat: Chat) -> JsonPath | None:
    """A tool in the Responses API's form has name and parameters at its top; they belong in `function` (Q18)."""
    changed: JsonPath | None = None
    for i, tool, draft in _drafts(chat):
        if "function" not in draft and draft.get("type") in ("function", None) and isinstance(draft.get("name"), str):
            tool.become({"type": "function", "function": {k: v for k, v in draft.items() if k != "type"}})
        elif isinstance(draft.get("function"), dict) and draft.get("type") is None:
            tool.become({**draft, "type": "function"})
        else:
            continue
        changed = changed or ("tools", i)
    return changed


@only_with("tools", "functions")
def custom_tool_to_function(chat: Chat) -> JsonPath | None:
    """A `custom` tool takes free text; here it is a function with the one argument `input` (Q18)."""
    changed: JsonPath | None = None
    for i, tool, draft in _drafts(chat):
        custom = draft.get("custom") if isinstance(draft.get("custom"), dict) else draft
        if draft.get("type") != "custom" or custom is None or not isinstance(custom.get("name"), str):
            continue
        description = custom.get("description")
        function = {"name": custom["name"], "description": description or "", "parameters": _FREE_TEXT}
        tool.become({"type": "function", "function": function})
        chat.custom_tools.add(legal_name(custom["name"]))
        changed = changed or ("tools", i)
    return changed


@only_with("tools", "functions")
def foreign_tool_removed(chat: Chat) -> JsonPath | None:
    """A tool that OpenAI's servers run themselves (web_search, mcp…) is left out: vLLM takes functions only (Q18)."""
    foreign = [i for i, _, draft in _drafts(chat) if isinstance(draft.get("type"), str) and draft["type"] != "function"]
    if not foreign:
        return None
    left_out = set(foreign)
    chat.tools = [tool for i, tool in enumerate(chat.tools) if i not in left_out]
    return ("tools", foreign[0])


@only_with("tools", "functions")
def known_definition_keys(chat: Chat) -> JsonPath | None:
    """
    A definition has name, description, parameters and strict; mistral-common up to 1.11.0 refuses others (Q19).

    Raises:
        InvalidRequest: there is no function, or it has no name.
    """
    changed: JsonPath | None = None
    for i, tool, draft in _drafts(chat):
        known = {"type": "function", "function": _definition(draft.get("function"), ("tools", i, "function"))}
        if known != draft:
            tool.become(known)
            changed = changed or ("tools", i)
    return changed


def _definition(function: Any, path: JsonPath) -> dict[str, Any]:
    if not isinstance(function, dict):
        raise InvalidRequest("A tool needs a `function` that is an object.", param=path_text(path))
    if not isinstance(function.get("name"), str):
        raise InvalidRequest("A tool needs a `name` that is a string.", param=path_text((*path, "name")))
    out: dict[str, Any] = {"name": function["name"]}
    if "description" in function:
        description = function["description"]
        out["description"] = description if isinstance(description, str) else ""
    parameters = function.get("parameters")
    out["parameters"] = parameters if isinstance(parameters, dict) else _NO_PARAMETERS
    if isinstance(function.get("strict"), bool):
        out["strict"] = function["strict"]
    return out


@only_with("tools", "functions")
def strict_removed(chat: Chat) -> JsonPath | None:
    """`strict` is left out of definitions: mistral-common before 1.10 refuses it (Q19)."""
    changed: JsonPath | None = None
    for i, tool, draft in _drafts(chat):
        if draft["function"].pop("strict", UNSET) is not UNSET:
            tool.become(draft)
            changed = changed or ("tools", i, "function", "strict")
    return changed


@only_with("tools", "functions")
def schema_to_draft7(chat: Chat) -> JsonPath | None:
    """Parameters follow JSON Schema draft 7, which mistral-common checks: `Invalid tool schema` (Q19)."""
    changed: JsonPath | None = None
    for i, tool, draft in _drafts(chat):
        cleaned = _draft7_text(encode(draft["function"]["parameters"]))
        if cleaned is not None:
            draft["function"]["parameters"] = Raw(cleaned)
            tool.become(draft)
            changed = changed or ("tools", i, "function", "parameters")
    return changed


def _draft7_text(schema: bytes) -> bytes | None:
    """Return the JSON text of a schema as draft 7 accepts it, None where nothing has to change."""
    return _remembered_text(schema) if len(schema) <= _REMEMBERED_BYTES else _cleaned_text(schema)


def _cleaned_text(schema: bytes) -> bytes | None:
    before = decode(schema)
    cleaned = draft7(before)
    return encode(cleaned) if cleaned != before else None


# Agents send the same schemas with every turn. Cleaning the 25 of the 63 KB body costs 100 µs, encoding and looking
# them up 20 (2026-11-23). A memo of a pure function, at most 4 MiB: no answer depends on what it holds.
_REMEMBERED_BYTES = 8192
_remembered_text = lru_cache(maxsize=256)(_cleaned_text)


def legal_tool_names(chat: Chat) -> JsonPath | None:
    """Names are 1 to 64 letters, digits, `_` or `-`, in definitions and in the history alike (Q20)."""
    changed: JsonPath | None = None
    for i, tool, draft in _drafts(chat):
        original = draft["function"]["name"]
        tool.name = legal_name(original)
        chat.tool_names[tool.name] = original
        if tool.name != original:
            draft["function"]["name"] = tool.name
            tool.become(draft)
            changed = changed or ("tools", i, "function", "name")
    in_history = None if chat.settled is not None else _legal_names_in_history(chat)
    return changed or in_history


def _legal_names_in_history(chat: Chat) -> JsonPath | None:
    changed: JsonPath | None = None
    for i, message in enumerate(chat.messages):
        for k, call in enumerate(message.calls):
            if not is_legal_name(call.function.name):
                call.function.name = legal_name(call.function.name)
                chat.touch(message)
                changed = changed or ("messages", i, "tool_calls", k, "function", "name")
        if isinstance(message.name, str) and not is_legal_name(message.name):
            message.name = legal_name(message.name)
            chat.touch(message)
            changed = changed or ("messages", i, "name")
    return changed


def is_legal_name(name: str) -> bool:
    """Whether every Mistral tokenizer accepts `name` as a function's."""
    return _LEGAL_NAME.fullmatch(name) is not None


def legal_name(name: str) -> str:
    """Return `name` if it is legal, else its legal characters and a digest of the whole."""
    if is_legal_name(name):
        return name
    return f"{_ILLEGAL_CHARACTER.sub('_', name)[:55]}_{nine_char_digest(name)[:8]}"


@only_with("tools", "functions")
def repeated_tool_removed(chat: Chat) -> JsonPath | None:
    """Of several tools with one name the first counts (Q18)."""
    if chat.offer is not None:
        return None
    names: dict[str, Tool] = {}
    for tool in chat.tools:
        names.setdefault(tool.name, tool)
    if len(names) == len(chat.tools):
        return None
    changed = next(i for i, tool in enumerate(chat.tools) if names[tool.name] is not tool)
    chat.tools = list(names.values())
    return ("tools", changed)
