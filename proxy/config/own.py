"""The command line of a command that has arguments of its own and reads the settings too."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from proxy.config.sources import add_flags


def own_and_settings(
    add_own: Callable[[argparse.ArgumentParser], None], arguments: Sequence[str], usage: str
) -> tuple[argparse.Namespace, list[str]]:
    """
    Return a command's own arguments, which `add_own` adds to a parser, and the others as flags for `load_config`. None
    of its own may be required.

    The settings' flags are known here, so that the value of one is not taken for a positional argument. What is not
    known at all is left to `load_config`, which names the nearest. Wrong usage leaves by SystemExit.
    """
    parser = argparse.ArgumentParser(usage=usage, add_help=False, allow_abbrev=False)
    add_own(parser)
    own = set(vars(parser.parse_args([])))
    add_flags(parser)
    found, unknown = parser.parse_known_args(arguments)
    given = ((name, value) for name, value in vars(found).items() if name not in own)
    return found, [*(flag for name, value in given for flag in _flags(name, value)), *unknown]


def _flags(name: str, value: Any) -> list[str]:
    if name == "options":
        return [f"--option={each}" for each in value]
    return [f"--{name.replace('_', '-')}={value}"]
