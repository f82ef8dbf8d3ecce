"""
mistral-common's checks on a conversation, for a v11 tokenizer: roles, keys, order, pairing, ids, names.

What any release up to 1.11.0 refuses is refused here, in the words of 1.10.0: unknown keys (in an assistant message and
`tool_calls[].index` up to 1.8.6 and at the hosted API), `user` after `tool` (up to 1.11.0), results that do not pair by
id (v11 from 1.10.0). Ids are judged as they come: vLLM would cut a longer one to its last nine characters first, which
may or may not leave nine alphanumerics. As in vLLM, the last calls may still lack results (ValidationMode.test).
"""

import re
from itertools import groupby
from typing import Any

from proxy.demo.parameters import Body
from proxy.demo.refusal import Refusal, extra_key_refused

_ID = re.compile(r"[a-zA-Z0-9]{9}")
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

#: role: its mistral-common model and the keys it has
_MODELS: dict[str, tuple[str, frozenset[str]]] = {
    "system": ("SystemMessage", frozenset({"role", "content"})),
    "user": ("UserMessage", frozenset({"role", "content"})),
    "assistant": ("AssistantMessage", frozenset({"role", "content", "tool_calls", "prefix"})),
    "tool": ("ToolMessage", frozenset({"role", "content", "tool_call_id", "name"})),
}
_CALL_KEYS = frozenset({"id", "type", "function"})
_FUNCTION_KEYS = frozenset({"name", "arguments"})
_PART_KEYS = frozenset({"type", "text"})

#: role: the roles that may follow it (`_validate_message_order`)
_FOLLOWERS = {
    "system": {"user", "assistant", "system"},
    "user": {"assistant", "system", "user"},
    "assistant": {"assistant", "user", "tool"},
    "tool": {"assistant", "tool"},
}


def text_of(content: Any) -> str:
    """Return the text of checked content: text as it is, parts joined with nothing between, null as ""."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return content or ""


def name_fault(name: Any) -> str:
    """Return mistral-common's text about a function name."""
    return (
        f"Function name was {name} but must be a-z, A-Z, 0-9, or contain underscores and dashes, "
        "with a maximum length of 64."
    )


def roles_are_known(body: Body) -> None:
    """Refuse roles other than Mistral's four; `developer` is one of them from 1.13.1 on only."""
    for message in body["messages"]:
        if message["role"] not in _MODELS:
            raise Refusal(f"Unknown message role: {message['role']}")


def no_extra_keys(body: Body) -> None:
    """Refuse keys that mistral-common's models do not have: in messages, parts, calls and functions."""
    for message in body["messages"]:
        model, keys = _MODELS[message["role"]]
        _refuse_extra(model, "", message, keys)
        content = message["content"] if isinstance(message.get("content"), list) else ()
        for part in content:
            _refuse_extra("TextChunk", "", part, _PART_KEYS)
        for call in message.get("tool_calls") or ():
            _refuse_extra("ToolCall", "", call, _CALL_KEYS)
            _refuse_extra("ToolCall", "function.", call["function"], _FUNCTION_KEYS)


def _refuse_extra(model: str, prefix: str, value: dict[str, Any], keys: frozenset[str]) -> None:
    for key in value:
        if key not in keys:
            raise extra_key_refused(model, prefix + key, value[key])


def one_message_is_a_question(body: Body) -> None:
    """Refuse a conversation of one message that is neither the user's nor the system's."""
    messages = body["messages"]
    if len(messages) == 1 and messages[0]["role"] not in ("user", "system"):
        raise Refusal("Conversation must start with a user message or system message")


def roles_follow_in_order(body: Body) -> None:
    """Refuse a role that may not follow the one before it, `user` after `tool` first of all."""
    previous = None
    for message in body["messages"]:
        role = message["role"]
        if previous is not None and role not in _FOLLOWERS[previous]:
            raise Refusal(f"Unexpected role '{role}' after role '{previous}'")
        previous = role


def results_pair_with_calls(body: Body) -> None:
    """Refuse results without a call, two for one call, and a turn that begins before its results are in."""
    expected: set[str] = set()
    observed: set[str] = set()
    # message 0 is skipped, as in every release: its calls make their own results unexpected
    for message in body["messages"][1:]:
        if message["role"] == "tool":
            _take_result(message["tool_call_id"], expected, observed)
        elif message["role"] == "assistant":
            if len(expected) != len(observed):
                raise Refusal("Not the same number of function calls and responses")
            expected = _call_ids(message)
            observed = set()


def _take_result(call_id: str, expected: set[str], observed: set[str]) -> None:
    if call_id in observed:
        raise Refusal(f"Duplicate tool call id {call_id} in tool results")
    if call_id not in expected:
        raise Refusal(f"Unexpected tool call id {call_id} in tool results")
    observed.add(call_id)


def _call_ids(message: dict[str, Any]) -> set[str]:
    ids: set[str] = set()
    for call in message.get("tool_calls") or ():
        if call["id"] in ids:
            raise Refusal(f"Duplicate tool call id {call['id']} in assistant message")
        ids.add(call["id"])
    return ids


def ids_and_names_are_plain(body: Body) -> None:
    """Refuse ids other than nine alphanumerics, and function names that a grammar could not write."""
    for message in body["messages"]:
        if message["role"] == "assistant":
            for call in message.get("tool_calls") or ():
                _check_id(call["id"])
                _check_name(call["function"]["name"])
        if message["role"] == "tool":
            if message.get("name") is not None:
                _check_name(message["name"])
            _check_id(message["tool_call_id"])


def _check_id(call_id: str) -> None:
    if not _ID.fullmatch(call_id):
        raise Refusal(f"Tool call id was {call_id} but must be a-z, A-Z, 0-9, with a length of 9.")


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Refusal(name_fault(name))


def assistants_say_something(body: Body) -> None:
    """
    Refuse an assistant turn with neither content nor calls (the encoder's check, on neighbours joined to one).

    Two empty ones in a row are refused as well; the encoder would join them to a blank line and take that.
    """
    for role, turn in groupby(body["messages"], key=lambda message: message["role"]):
        if role == "assistant" and not any(_says_something(message) for message in turn):
            raise Refusal("Invalid assistant message: role='assistant' content='' tool_calls=None prefix=False")


def _says_something(message: dict[str, Any]) -> bool:
    return bool(text_of(message.get("content")) or message.get("tool_calls"))
