"""
Text for a terminal: its colours, how many cells it takes, and what must not reach it.

Plain escape sequences, and no library: five colours are all there is, and a line has to cost microseconds.
"""

import unicodedata
from enum import StrEnum
from typing import Final

_END: Final = "\x1b[0m"


class Ink(StrEnum):
    """A colour or a weight, by its SGR parameter (ECMA-48, 8.3.117)."""

    PLAIN = ""
    BOLD = "1"
    DIM = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"
    CYAN = "36"


def painted(text: str, ink: Ink) -> str:
    """Return `text` between the sequences that turn a colour on and off."""
    return f"\x1b[{ink.value}m{text}{_END}" if ink and text else text


def safe(text: str) -> str:
    """
    Return `text` with everything that is not to be seen spelled out.

    Paths and model names are a client's own words: they could move the cursor, or turn the direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def cells(text: str) -> int:
    """Return how many cells of a terminal's line printable text takes."""
    return len(text) if text.isascii() else sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return `text`, or as much of it as leaves a cell for the ellipsis."""
    if cells(text) <= width:
        return text
    kept, room = "", width - 1
    for character in text:
        room -= _cells_of(character)
        if room < 0:
            break
        kept += character
    return kept + "…" if width > 0 else ""


def padded(text: str, width: int) -> str:
    """Return `text` with spaces up to `width` cells."""
    return text + " " * (width - cells(text))
