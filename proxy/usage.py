"""What `--help` says of a command, in one form for all of them; and `--version`, which each of them has."""

import argparse
import textwrap
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from proxy import __version__

PROGRAM: Final = "devstral-proxy"
_WIDTH: Final = 120


class Usage(NamedTuple):
    """
    One command. `command` are the words that call it, `about` is a sentence, `examples` are lines, `codes` is how it
    ends, without wrong usage, which is 2 everywhere. `form` is the usage line, "" the one that argparse makes.
    """

    command: str
    about: str
    examples: str
    codes: Mapping[int, str]
    notes: str = ""
    form: str = ""

    @property
    def epilog(self) -> str:
        """What stands under the flags."""
        lines = "\n".join(f"  {line}" for line in self.examples.splitlines())
        codes = ", ".join(f"{code} {means}" for code, means in sorted({2: "wrong usage", **self.codes}.items()))
        notes = f"{self.notes}\n\n" if self.notes else ""
        return f"examples:\n{lines}\n\n{notes}{textwrap.fill(f'exit codes: {codes}', _WIDTH)}"

    @property
    def words(self) -> dict[str, Any]:
        """The arguments of argparse's parsers, of sub-commands too."""
        return {
            "prog": f"{PROGRAM} {self.command}".strip(),
            "usage": self.form or None,
            "description": self.about,
            "epilog": self.epilog,
            "formatter_class": argparse.RawDescriptionHelpFormatter,
            "allow_abbrev": False,
        }


def parser_for(usage: Usage) -> argparse.ArgumentParser:
    """Return a parser that has `--help` and `--version`."""
    return with_version(argparse.ArgumentParser(**usage.words))


def with_version(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Return the parser, which has `--version` now."""
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser
