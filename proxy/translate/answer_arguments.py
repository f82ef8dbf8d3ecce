"""
The arguments of one call, as they come in pieces: from the first brace to the one that closes it (R7).

    LEADING --"{"--> OBJECT --closing brace--> CLOSED (what follows is no part of the arguments)
       |
       +-- anything that is neither white space, a marker nor "{" --> VERBATIM (passed on as it came)
"""

import re
from enum import IntEnum
from typing import Final

from proxy.translate.json_scanner import JsonScanner
from proxy.translate.leaked_forms import MARKER

# vLLM 0.19 to 0.24 leaves the marker and the name in front of a named or required call's arguments (vllm#37081).
_LEADING: Final = re.compile(r"\s*(?:```(?:json)?\s*)?(?:\[TOOL_CALLS\]\s*[\w-]*\s*)?(?:\[ARGS\]\s*)?")
_MARKER_STARTS: Final = ("```", "json", MARKER, "[ARGS]")
# Arbitrary: longer than any marker with a name of 64 letters. It bounds what is held back.
_LONGEST_LEADING: Final = 128


class ArgumentState(IntEnum):
    """Where in the arguments the last piece ended."""

    LEADING = 0
    OBJECT = 1
    CLOSED = 2
    VERBATIM = 3


class Arguments:
    """Follows the arguments of one call. Holds back nothing but what may be a marker in front of them."""

    def __init__(self) -> None:
        self.state = ArgumentState.LEADING
        self.had_markers = False
        self._held = ""
        self._scanner = JsonScanner()

    def receive(self, piece: str) -> tuple[str, str]:
        """Return the arguments in `piece`, and the text after their end."""
        if self.state is ArgumentState.OBJECT:
            return self._in_object(piece)
        if self.state is ArgumentState.CLOSED:
            return "", piece
        if self.state is ArgumentState.VERBATIM:
            return piece, ""
        return self._leading(self._held + piece)

    def passes(self, piece: str) -> bool:
        """Take `piece` if it is inside the object and does not end it; return whether it was taken."""
        return self.state is ArgumentState.OBJECT and self._scanner.passes(piece)

    def _leading(self, text: str) -> tuple[str, str]:
        self._held = ""
        match = _LEADING.match(text)
        start = match.end() if match else 0
        rest = text[start:]
        if rest.startswith("{") and start <= _LONGEST_LEADING:
            self.had_markers = len(rest) < len(text.lstrip())
            self.state = ArgumentState.OBJECT
            return self._in_object(rest)
        if len(text) <= _LONGEST_LEADING and any(marker.startswith(rest) for marker in _MARKER_STARTS):
            self._held = text
            return "", ""
        self.state = ArgumentState.VERBATIM
        return text, ""

    def _in_object(self, piece: str) -> tuple[str, str]:
        end = self._scanner.end_in(piece)
        if end == -1:
            return piece, ""
        self.state = ArgumentState.CLOSED
        return piece[:end], piece[end:]

    def finish(self) -> str:
        """Return what was held back, without white space; "" where there were no arguments at all."""
        held, self._held = self._held.strip(), ""
        return held
