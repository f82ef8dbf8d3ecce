"""
The forms in which a client gets what was said: names as it gave them, calls of the kind it declared (R5), calls whole
or in fragments (R9), thoughts under the names it reads (R11).
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from proxy.translate.answer_parts import CallPart, Part, Text, Thought, Untouched
from proxy.translate.answer_rules import RuleLog
from proxy.translate.expectation import Expectation
from proxy.wire.completion import Call, Function, Message


class MessageForms:
    """Turns the parts of one choice into messages; `is_whole` gives each call in one piece, whatever is configured."""

    def __init__(self, expectation: Expectation, rules: RuleLog, *, is_whole: bool = False) -> None:
        self._expectation = expectation
        self._options = expectation.options
        self._rules = rules
        self._is_whole = is_whole or expectation.options.tool_stream == "whole"
        self._names: dict[int, str] = {}
        self._buffered: dict[int, list[CallPart]] = {}

    def messages(self, parts: Iterable[Part]) -> list[Message]:
        """Return `parts` as messages, one for each run of the same kind."""
        messages: list[Message] = []
        for part in parts:
            if isinstance(part, CallPart):
                self._add_call(part, messages)
            elif isinstance(part, Untouched):
                messages.append(Message(**part.fields))  # type: ignore[arg-type]  # they come from a Message
            elif isinstance(part, Text):
                _add(Message(content=part.text), messages)
            else:
                self._add_thought(part, messages)
        return messages

    def _add_thought(self, part: Thought, messages: list[Message]) -> None:
        match self._options.reasoning_field:
            case "both":
                _add(Message(reasoning=part.text, reasoning_content=part.text), messages)
            case "reasoning_content":
                _add(Message(reasoning_content=part.text), messages)
            case "drop":
                self._rules.add("reasoning_fields")
            case _:
                _add(Message(reasoning=part.text), messages)

    def _add_call(self, part: CallPart, messages: list[Message]) -> None:
        if part.name is not None:
            self._names[part.index] = part.name
        if self._is_whole or self._names[part.index] in self._expectation.custom_tools:
            whole = self._buffer(part)
            if whole is None:
                return
            part = whole
        elif part.id is None and not part.arguments:
            return
        if self._expectation.legacy_functions:
            self._add_function_call(part, messages)
        elif self._is_whole:
            messages.append(Message(tool_calls=[self._call(part)]))
        else:
            _add(Message(tool_calls=[self._call(part)]), messages)

    def _buffer(self, part: CallPart) -> CallPart | None:
        """Return the whole call when `part` is its last piece."""
        pieces = self._buffered.setdefault(part.index, [])
        pieces.append(part)
        if not part.is_last:
            return None
        if len(pieces) > 1 and not self._is_whole_already(pieces):
            self._rules.add("one_delta_per_call")
        del self._buffered[part.index]
        arguments = "".join(piece.arguments for piece in pieces)
        return CallPart(part.index, arguments, pieces[0].id, pieces[0].name, is_last=True)

    @staticmethod
    def _is_whole_already(pieces: list[CallPart]) -> bool:
        return sum(1 for piece in pieces if piece.arguments) < 2

    def _call(self, part: CallPart) -> Call:
        if part.name is None:
            return Call(part.index, function=Function(arguments=part.arguments))
        name = self._client_name(part.name)
        if part.name in self._expectation.custom_tools:
            self._rules.add("function_to_custom_call")
            return Call(part.index, part.id, "custom", custom={"name": name, "input": _input_of(part.arguments)})
        return Call(part.index, part.id, "function", Function(name, part.arguments))

    def _client_name(self, name: str) -> str:
        client_name = self._expectation.tool_names.get(name, name)
        if client_name != name:
            self._rules.add("restore_tool_names")
        return client_name

    def _add_function_call(self, part: CallPart, messages: list[Message]) -> None:
        """A client of `functions` knows one call per answer: the first."""
        self._rules.add("tool_call_to_function_call")
        if part.index > 0:
            return
        call: dict[str, Any] = {} if part.name is None else {"name": self._client_name(part.name)}
        messages.append(Message(function_call={**call, "arguments": part.arguments}))


def _add(message: Message, messages: list[Message]) -> None:
    """Append `message`, or put it into the last one where that is of the same kind."""
    if messages and (joined := _joined(messages[-1], message)):
        messages[-1] = joined
    else:
        messages.append(message)


def _joined(first: Message, second: Message) -> Message | None:
    if first.tool_calls and second.tool_calls:
        return Message(tool_calls=_joined_calls(first.tool_calls, second.tool_calls[0]))
    if isinstance(first.content, str) and isinstance(second.content, str):
        return Message(content=first.content + second.content)
    for name in ("reasoning", "reasoning_content"):
        if getattr(first, name) is not None and getattr(second, name) is not None:
            text = getattr(first, name) + getattr(second, name)
            return Message(**{field: text for field in ("reasoning", "reasoning_content") if getattr(second, field)})
    return None


def _joined_calls(calls: list[Call], more: Call) -> list[Call]:
    last = calls[-1]
    if last.index == more.index and last.function is not None and more.function is not None:
        last.function.arguments += more.function.arguments
        return calls
    return [*calls, more]


def _input_of(arguments: str) -> str:
    """Return the one argument of a tool declared as `custom`; text that is no such object is the input itself."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return arguments
    given = value.get("input") if isinstance(value, dict) else None
    return given if isinstance(given, str) else arguments
