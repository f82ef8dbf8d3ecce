"""Server-sent events read a second way, by the standard's own words and without care for speed or for cuts."""

import re

BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")


def payloads(stream: bytes) -> list[bytes]:
    """Return what the data lines of each whole event say, joined by spaces; events without data are left out."""
    *lines, _unfinished = _LINE_END.split(stream.removeprefix(BOM))
    found: list[bytes] = []
    values: list[bytes] = []
    for line in lines:
        name, _, value = line.partition(b":")
        if name == b"data":
            values.append(value.removeprefix(b" "))
        elif not line:
            found += filter(None, [b" ".join(values)])
            values = []
    return found


def pieces(data: bytes, size: int) -> list[bytes]:
    """Cut `data` every `size` bytes."""
    return [data[at : at + size] for at in range(0, len(data), size)]
