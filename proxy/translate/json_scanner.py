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
_STRING_SPECIAL: Final = re.compile(r'["\\]')


class _Where(IntEnum):
    OUTSIDE = 0
    IN_STRING = 1
    AFTER_BACKSLASH = 2


class JsonScanner:
    """Follows one value from its first bracket to its last. Looks at each character at most once."""

    def __init__(self) -> None:
        self._where = _Where.OUTSIDE
        self._depth = 0

    def end_in(self, text: str) -> int:
        """Return the index in `text` just past the bracket that ends the value, or -1 if it goes on."""
        at = 0
        while at < len(text):
            if self._where is _Where.AFTER_BACKSLASH:
                self._where = _Where.IN_STRING
                at += 1
                continue
            pattern = _OUTSIDE_SPECIAL if self._where is _Where.OUTSIDE else _STRING_SPECIAL
            found = pattern.search(text, at)
            if found is None:
                return -1
            at = found.end()
            if self._step(found.group()):
                return at
        return -1

    def _step(self, char: str) -> bool:
        """Take one special character; return whether it ends the value."""
        if char == "\\":
            self._where = _Where.AFTER_BACKSLASH
        elif char == '"':
            self._where = _Where.OUTSIDE if self._where is _Where.IN_STRING else _Where.IN_STRING
        else:
            self._depth += 1 if char in "{[" else -1
        return self._depth <= 0 and char in "}]"
