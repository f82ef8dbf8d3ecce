"""What is shown of the lines that come: those that a filter lets through, as columns or as they are."""

import sys
from collections.abc import Iterable, Sequence

from proxy.tail.render import Renderer
from proxy.tail.select import Filters, Line, fields_of


class Output:
    """Standard output, with a filter before it."""

    def __init__(self, renderer: Renderer, filters: Filters, *, is_json: bool) -> None:
        self._renderer = renderer
        self._is_json = is_json
        self.filters = filters

    def begin(self) -> None:
        """Say what the columns are, to who can see that."""
        if sys.stdout.isatty() and not self._is_json:
            self._write([self._renderer.header().encode()])

    def is_shown(self, line: Line | None) -> bool:
        """Return whether the fields of a line get through, or None, which is other text."""
        if line is None:
            return self.filters.wants_all and not self._is_json
        return self.filters.match(line)

    def show(self, texts: Iterable[bytes]) -> None:
        """
        Write those of some lines that get through, at once.

        Raises:
            BrokenPipeError: nobody reads them any more.
        """
        self._write([shown for text in texts if (shown := self._shown(text)) is not None])

    def _shown(self, text: bytes) -> bytes | None:
        line = fields_of(text)
        if not self.is_shown(line):
            return None
        if self._is_json:
            return text
        return self._renderer.text(text) if line is None else self._renderer.line(line).encode(errors="replace")

    def _write(self, lines: Sequence[bytes]) -> None:
        if lines:
            sys.stdout.buffer.write(b"\n".join(lines) + b"\n")
            sys.stdout.buffer.flush()
