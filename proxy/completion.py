"""
The command `completion`: a script with which a shell completes commands, flags, and the values that flags may have.

    0 written   1 shtab, which writes it, is not installed   2 wrong usage
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, get_args, get_origin

from proxy.config import OPTIONS, SETTINGS
from proxy.config.rows import Row
from proxy.printing import write_line
from proxy.translate.profile import PROFILE_CHOICES
from proxy.usage import Usage, parser_for
from proxy.values import plain

SHELLS: Final = ("bash", "zsh", "fish")

_USAGE: Final = Usage(
    command="completion",
    about="Write a script with which a shell completes commands, flags and values.",
    examples="""\
eval "$(devstral-proxy completion bash)"                          in ~/.bashrc
eval "$(devstral-proxy completion zsh)"                           in ~/.zshrc, behind compinit
devstral-proxy completion zsh > ~/.zfunc/_devstral-proxy          or in a folder of $fpath
devstral-proxy completion fish > ~/.config/fish/completions/devstral-proxy.fish""",
    codes={0: "written", 1: "shtab is not installed: pip install 'devstral-proxy[cli]'"},
)
#: What the value of a flag is a path for, where argparse's own flags say so.
_PATHS: Final = ("FILE",)
_TRUTH: Final = ("true", "false")


def completion(
    arguments: Sequence[str], program: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser]
) -> int:
    """
    Run `completion ARGUMENTS`; return the exit code. `--help` and wrong usage leave by SystemExit.

    `program` tells of the flags without a command, `commands` of each command; they are changed.
    """
    options = completion_parser().parse_args(arguments)
    try:
        import shtab
    except ImportError:
        print("devstral-proxy: shtab is not installed: pip install 'devstral-proxy[cli]'", file=sys.stderr)
        return 1
    for parser in (program, *commands.values()):
        _say_values(parser, shtab.FILE)
    below = program.add_subparsers()
    for name, parser in commands.items():
        below.add_parser(name, parents=[parser], add_help=False, help=(parser.description or "").splitlines()[0])
    write_line(shtab.complete(program, options.shell))
    return 0


def completion_parser() -> argparse.ArgumentParser:
    """Return what reads the arguments."""
    parser = parser_for(_USAGE)
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")
    return parser


def _say_values(parser: argparse.ArgumentParser, paths: Any) -> None:
    """Say for each flag which values it may have, where they can be listed, and which are paths."""
    rows = {row.flag: row for row in SETTINGS.values()}
    # argparse has no public list of what was added to a parser; shtab reads this one as well.
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in set(action.choices.values()):
                _say_values(each, paths)
        row = next((rows[flag] for flag in action.option_strings if flag in rows), None)
        values = _values_of(row) if row is not None else ()
        if values:
            action.choices = values
        elif action.metavar in _PATHS or (row is not None and _is_path(row)):
            action.complete = paths  # type: ignore[attr-defined]  # where shtab looks for it


def _is_path(row: Row) -> bool:
    return row.expected == "path" or row.flag.endswith("-file")


def _values_of(row: Row) -> Sequence[str]:
    if row.name == "profile":
        return PROFILE_CHOICES
    if row.name == "options":
        return tuple(f"{option.name}={value}" for option in OPTIONS.values() for value in _words_of(option.kind))
    return _words_of(row.kind)


def _words_of(kind: Any) -> Sequence[str]:
    """Return the values of a kind that has few; none of another one."""
    bare = plain(kind)
    if bare is bool:
        return _TRUTH
    return tuple(map(str, get_args(bare))) if get_origin(bare) is Literal else ()
