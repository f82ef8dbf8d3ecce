"""
Where a JSON object or array ends, in text that comes in pieces.

          "                 \\                  any
    OUTSIDE ----> IN_STRING ----> AFTER_BACKSLASH ----> IN_STRING
            <----
              "
OUTSIDE counts brackets; the one that brings the count to zero ends the value.
"""

import re
from enum import IntEnum
from typing import Final

_OUTSIDE_SPECIAL: Final = re.compile(r'["{}\[\]]')
# Up to the closing quote, or to what was cut: the end of the text, or a backslash that is its last character.
_REST_OF_STRING: Final = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)


class _Where(IntEnum):
    OUTSIDE = 0
    IN_STRING = 1
    AFTER_BACKSLASH = 2


class JsonScanner:
    """Follows one value from its first bracket to its last. Looks at each character at most once."""

    def __init__(self) -> None:
        self._where = _Where.OUTSIDE
        self._depth = 0

    def passes(self, text: str) -> bool:
        """Take `text` if the value goes on after it, else do nothing; return whether it was taken."""
        if self._where is _Where.IN_STRING and '"' not in text and "\\" not in text:
            return True
        before = self._where, self._depth
        if self.end_in(text) == -1:
            return True
        self._where, self._depth = before
        return False

    def end_in(self, text: str) -> int:
        """Return the index in `text` just past the bracket that ends the value, or -1 if it goes on."""
        at = 0
        while at < len(text):
            if self._where is _Where.OUTSIDE:
                found = _OUTSIDE_SPECIAL.search(text, at)
                if found is None:
                    return -1
                at = found.end()
                if self._opens_or_ends(found.group()):
                    return at
            else:
                at = self._in_string(text, at)
        return -1

    def _opens_or_ends(self, char: str) -> bool:
        """Take one special character outside strings; return whether it ends the value."""
        if char == '"':
            self._where = _Where.IN_STRING
        elif char in "{[":
            self._depth += 1
        else:
            self._depth -= 1
            return self._depth <= 0
        return False

    def _in_string(self, text: str, at: int) -> int:
        """Return the index just past the string's closing quote, or the end of `text` if there is none."""
        if self._where is _Where.AFTER_BACKSLASH:
            self._where = _Where.IN_STRING
            at += 1
        match = _REST_OF_STRING.match(text, at)
        end = match.end() if match else at  # it matches everywhere
        if end == len(text):
            return end
        self._where = _Where.OUTSIDE if text[end] == '"' else _Where.AFTER_BACKSLASH
        return end + 1
