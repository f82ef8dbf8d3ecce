"""
The calls of one choice: which fragment belongs to which call, under which id and name, with which arguments (R6 to R8).

A fragment belongs to the call that its index last stood for. It begins a new call if the index is new, if it brings
another id, or if it brings a name after the arguments have ended (mistral-vibe's back end and llama.cpp give index 0 to
several calls). Calls are numbered in the order they begin. Fragments of several open calls may alternate.
"""

from typing import Any

from proxy.errors import UpstreamProtocolError
from proxy.translate.answer_arguments import Arguments, ArgumentState
from proxy.translate.answer_parts import CallPart, FoundCall, Text
from proxy.translate.answer_rules import RuleLog
from proxy.translate.arguments import missing_end
from proxy.translate.expectation import Expectation
from proxy.translate.leaked_forms import calls_in_json, is_start_of_name, known_name
from proxy.translate.tool_ids import nine_char_id
from proxy.wire.completion import Call, encode
from proxy.wire.ids import nine_char_digest

CallParts = list[CallPart | Text]


class _OpenCall:
    """A call that has begun."""

    def __init__(self, index: int, upstream_id: str | None, name: str, *, keeps_text: bool) -> None:
        self.index = index
        self.upstream_id = upstream_id
        self.name = name
        self.arguments = Arguments()
        self.is_finished = False
        #: all arguments so far, kept only where they may have to be closed
        self.text: list[str] | None = [] if keeps_text else None
        self.is_empty = True
        #: what was wrong with it so far
        self.wrong: tuple[str, ...] = ()


class CallTracker:
    """Takes fragments of calls; returns parts, each call's first with id and name, and text that was no argument."""

    def __init__(self, expectation: Expectation, choice: int, rules: RuleLog) -> None:
        self._options = expectation.options
        self._names = expectation.tool_names
        self._buffered = expectation.custom_tools
        # What is held back of a call, and what is to be appended to it, must be out before the next one begins.
        self._keeps_order = self._options.tool_stream == "whole" or self._options.bad_args == "repair"
        self._choice = choice
        self._rules = rules
        self._calls: list[_OpenCall] = []
        self._by_index: dict[int, _OpenCall] = {}
        self._ids: set[str] = set()
        #: text of a v3-style array that a v11 parser took for a call named "["
        self._glued: list[str] = []

    def receive(self, call: Call, position: int, answer_id: str) -> CallParts:
        """
        Take the fragment at `position` of a delta; `answer_id` is the completion's.

        Raises:
            UpstreamProtocolError: a call begins without a name.
        """
        index = call.index if call.index is not None else position
        function = call.function
        name = (function.name if function else None) or ""
        arguments = self._argument_text(function.arguments if function else None)
        if self._glued or (name.strip() == "[" and self._names):
            self._glued.append(name + arguments)
            return []
        parts: CallParts = []
        current = self._by_index.get(index)
        upstream_id = usable_id(call.id)
        if current is None or _begins_anew(current, upstream_id, name):
            current = self._begin(upstream_id, name, answer_id, parts)
            self._by_index[index] = current
            if call.index != current.index:
                self._rules.add("one_index_per_call")
        elif call.id is not None or call.type is not None or name:
            self._rules.add("one_index_per_call")
        self._append(current, arguments, parts)
        return parts

    def passes(self, index: int, piece: str) -> bool:
        """Take `piece` of the arguments of call `index` if it is the last one and goes on; return whether it was."""
        last = self._calls[-1]
        return last.index == index and last.text is None and last.arguments.passes(piece)

    def add(self, found: FoundCall, answer_id: str) -> CallParts:
        """Take a whole call that was found in text."""
        parts: CallParts = []
        call = self._begin(found.id, found.name, answer_id, parts)
        self._append(call, found.arguments, parts)
        return parts

    def _begin(self, upstream_id: str | None, written: str, answer_id: str, parts: CallParts) -> _OpenCall:
        if not written.strip():
            raise UpstreamProtocolError("The model server sent a tool call without a name.", code="malformed_tool_call")
        if self._calls and self._ends_at_the_next(self._calls[-1]):
            self._complete(self._calls[-1], parts, is_cut=False)
        index = len(self._calls)
        name, glued_id = known_name(written, self._names)
        if name is not None and name != written:
            self._rules.add("clean_call_names")
        call = _OpenCall(index, upstream_id, name or written, keeps_text=self._options.bad_args == "repair")
        if call.name != written:
            self._note(call, "name")
        self._calls.append(call)
        client_id = self._client_id(upstream_id or glued_id, f"~resp:{answer_id}:{self._choice}:{index}")
        parts.append(CallPart(index, "", client_id, call.name))
        return call

    def _ends_at_the_next(self, call: _OpenCall) -> bool:
        """Whether `call` has no further fragments once another begins; a client may want to read it then."""
        return call.is_empty or self._keeps_order or call.name in self._buffered

    def _client_id(self, upstream_id: str | None, key: str) -> str:
        """Return an id of nine alphanumerics that no other call of this message has (R6, H2)."""
        client_id = nine_char_id(upstream_id) if upstream_id else nine_char_digest(key)
        if client_id in self._ids:
            client_id = nine_char_digest(key)
        if client_id != upstream_id:
            self._rules.add("nine_char_call_ids")
        self._ids.add(client_id)
        return "call_" + client_id if self._options.client_ids == "call_prefix" else client_id

    def _append(self, call: _OpenCall, piece: str, parts: CallParts) -> None:
        arguments, trailing = call.arguments.receive(piece)
        if call.is_finished:
            arguments, trailing = "", arguments + trailing
        call.is_empty = call.is_empty and not arguments
        if call.text is not None:
            call.text.append(arguments)
        ends = call.arguments.state is ArgumentState.CLOSED and not call.is_finished
        if call.arguments.had_markers:
            self._rules.add("drop_argument_markers")
            self._note(call, "markers")
        if arguments or ends:
            parts.append(CallPart(call.index, arguments, is_last=ends))
        call.is_finished = call.is_finished or ends
        if trailing.strip():
            drops = self._options.trailing_text == "drop"
            self._rules.add("trailing_text_to_nothing" if drops else "trailing_text_to_content")
            self._note(call, "trailing_text")
        if trailing and self._options.trailing_text == "content":
            parts.append(Text(trailing))

    def _complete(self, call: _OpenCall, parts: CallParts, *, is_cut: bool) -> None:
        """End the arguments of `call`: nothing becomes `{}`, an open object may be closed (R8)."""
        if call.is_finished:
            return
        call.is_finished = True
        rest = call.arguments.finish()
        if not is_cut and call.is_empty and not rest:
            self._rules.add("empty_arguments_to_object")
            self._note(call, "no_arguments")
            rest = "{}"
        elif not is_cut and call.text is not None and (missing := missing_end("".join(call.text) + rest)):
            self._rules.add("close_cut_arguments")
            self._note(call, "closed")
            rest += missing
        else:
            self._note(call, "cut" if is_cut else "invalid")
        parts.append(CallPart(call.index, rest, is_last=True))

    def _note(self, call: _OpenCall, wrong: str) -> None:
        """Count what is wrong with a call, once for each."""
        if wrong not in call.wrong:
            call.wrong += (wrong,)
            self._rules.malformed += (wrong,)

    @property
    def count(self) -> int:
        """How many calls have begun."""
        return len(self._calls)

    def ends_inside_a_call(self, *, is_at_limit: bool) -> bool:
        """
        Whether the last call is cut: its object is open, or its name is the start of an offered one without arguments.

        vLLM up to 0.30 says `tool_calls` then (vllm#53269), 0.32 too where the answer is not streamed. An object that
        `bad_args: repair` is going to close is not cut, unless the answer `is_at_limit`: what is missing is unknown.
        """
        if not self._calls or self._calls[-1].is_finished:
            return False
        last = self._calls[-1]
        if last.arguments.state is ArgumentState.OBJECT:
            return last.text is None or is_at_limit
        return last.is_empty and is_start_of_name(last.name, self._names)

    def finish(self, answer_id: str, *, is_cut: bool) -> CallParts:
        """End all calls; `is_cut` says that the last one is not complete."""
        parts: CallParts = []
        if self._glued:
            self._unglue(answer_id, parts)
        if self._calls:
            for call in self._calls[:-1]:
                self._complete(call, parts, is_cut=False)
            self._complete(self._calls[-1], parts, is_cut=is_cut)
        return parts

    def _unglue(self, answer_id: str, parts: CallParts) -> None:
        """A v11 parser took `[{"name": ...}]` for a call named `[`; what is no such array stays that call."""
        text = "".join(self._glued)
        self._glued.clear()
        if found := calls_in_json(text, self._names):
            self._rules.recover(len(found))
            for leaked in found:
                parts += self.add(leaked, answer_id)
            return
        call = self._begin(None, "[", answer_id, parts)
        self._append(call, text.lstrip()[1:], parts)

    def _argument_text(self, arguments: Any) -> str:
        """Return arguments as text; the hosted API and some relays send the object itself (R8)."""
        if arguments is None or isinstance(arguments, str):
            return arguments or ""
        self._rules.add("object_arguments_to_text")
        self._rules.malformed += ("object",)
        return encode(arguments).decode()


def _begins_anew(current: _OpenCall, upstream_id: str | None, name: str) -> bool:
    if upstream_id is not None and upstream_id != current.upstream_id:
        # a relay may send the id late: then it is this call's
        return current.upstream_id is not None or current.is_finished
    return bool(name) and upstream_id is None and current.is_finished


def usable_id(raw: Any) -> str | None:
    """Return an upstream's id, or None where there is none; the hosted SDK's default is the text "null"."""
    if raw is None or raw in ("", "null"):
        return None
    return raw if isinstance(raw, str) else str(raw)
