"""Answers as an agent reads them: put together, timed, and judged."""

import json
from typing import Any

Message = dict[str, Any]


class Transcript:
    """
    A streamed answer. Give `read()` each line with the second of its arrival; then ask for the rest.

    `arrivals` has the second of each event that says something: text, reasoning, or a part of a call.
    """

    def __init__(self) -> None:
        self.text = ""
        self.calls: dict[int, Message] = {}
        self.arrivals: list[float] = []
        self.finish_reason: str | None = None
        self.tokens = 0
        self._error = ""
        self._is_done = False

    def read(self, line: bytes, second: float) -> None:
        """Take one line; anything but a `data:` line says nothing."""
        if not line.startswith(b"data: "):
            return
        payload = line[6:].strip()
        if payload == b"[DONE]":
            self._is_done = True
            return
        event = json.loads(payload)
        self._error = self._error or str(event.get("error") or "")
        self.tokens = (event.get("usage") or {}).get("completion_tokens", self.tokens)
        for choice in event.get("choices", ()):
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            if self._says_something(choice["delta"]):
                self.arrivals.append(second)

    def _says_something(self, delta: Message) -> bool:
        self.text += delta.get("content") or ""
        for part in delta.get("tool_calls") or ():
            empty = {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
            call = self.calls.setdefault(part["index"], empty)
            call["id"] = part.get("id") or call["id"]
            for field, text in part["function"].items():
                call["function"][field] += text or ""
        return bool(delta.get("content") or delta.get("tool_calls") or delta.get("reasoning"))

    @property
    def gaps_s(self) -> list[float]:
        """The seconds between one such event and the next."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]

    def message(self) -> Message:
        """Return what goes into the history."""
        message: Message = {"role": "assistant", "content": self.text or None}
        return {**message, "tool_calls": [self.calls[index] for index in sorted(self.calls)]} if self.calls else message

    def problem(self) -> str:
        """Return what is wrong with it, "" when nothing is."""
        if self._error:
            return f"an error: {self._error}"
        if not self._is_done:
            return "no [DONE]"
        return problem_of(self.message(), self.finish_reason)


def problem_of(message: Message, finish_reason: str | None) -> str:
    """Return what is wrong with an answer, whole or put together, "" when nothing is."""
    if not finish_reason:
        return "no finish_reason"
    calls = message.get("tool_calls") or []
    if not calls and not message.get("content") and finish_reason != "length":
        return "neither text nor a call"
    for call in calls:
        if not call["id"] or not call["function"]["name"]:
            return "a call without id or name"
        # What the token limit cuts is no longer JSON, and says so.
        if finish_reason != "length" and not _is_object(call["function"]["arguments"]):
            return f"arguments that are no JSON object: {call['function']['arguments']!r}"
    return ""


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def percentile(times: list[float], share: float) -> float | None:
    """Return the value below which that share of the times lies, None of no times."""
    return sorted(times)[int(share * (len(times) - 1))] if times else None
