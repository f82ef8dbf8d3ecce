"""The command line of a command that has arguments of its own and reads the settings too."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from proxy.config.sources import add_flags
from proxy.usage import Usage, parser_for, with_version

AddOwn = Callable[[argparse.ArgumentParser], None]


def own_parser(usage: Usage, add_own: AddOwn) -> argparse.ArgumentParser:
    """Return what tells of the command's own arguments, and how it is used wrongly."""
    parser = parser_for(usage)
    add_own(parser)
    return parser


def own_and_settings(usage: Usage, add_own: AddOwn, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """
    Return a command's own arguments, which `add_own` adds to a parser, and the others as flags for `load_config`. None
    of its own may be required.

    The settings' flags are known here, so that the value of one is not taken for a positional argument. What is not
    known at all is left to `load_config`, which names the nearest. `--help`, `--version` and wrong usage leave by
    SystemExit.
    """
    if {"-h", "--help"} & set(arguments):
        own_parser(usage, add_own).parse_args(["--help"])
    words = {**usage.words, "add_help": False}
    parser = with_version(argparse.ArgumentParser(**words))
    add_own(parser)
    own = set(vars(parser.parse_args([])))
    add_flags(parser)
    found, unknown = parser.parse_known_args(arguments)
    if unknown and not unknown[0].startswith("-"):
        parser.error("too many arguments; flags start with --")  # without the word, which may be a secret
    given = ((name, value) for name, value in vars(found).items() if name not in own)
    return found, [*(flag for name, value in given for flag in _flags(name, value)), *unknown]


def _flags(name: str, value: Any) -> list[str]:
    if name == "options":
        return [f"--option={each}" for each in value]
    return [f"--{name.replace('_', '-')}={value}"]
