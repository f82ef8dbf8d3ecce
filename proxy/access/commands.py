"""
The command `keys`: add, list and revoke API keys in a file that a running proxy watches.

    0 done   1 no such key, or already one of that name   2 wrong usage   78 the file cannot be used (ConfigError)

What belongs into a script goes to standard output: the new key alone, or the list. All else goes to standard error.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from proxy.access.keys import Entry, is_id, is_name, new_key
from proxy.access.keys_file import change_entries, read_entries
from proxy.config import ConfigError
from proxy.printing import write_line
from proxy.usage import Usage, parser_for, with_version

#: The variable that names the file, for this command and for the proxy.
VARIABLE: Final = "PROXY_KEYS_FILE"

_TAKEN_OVER: Final = """\
A proxy that runs with this file takes a change over by itself, within seconds (WATCH_CONFIG), or on SIGHUP."""
_CODES: Final = {0: "done", 78: "the file cannot be used"}
_USAGE: Final = Usage(
    command="keys",
    about="API keys of clients: a file of their salted hashes.",
    examples="""\
devstral-proxy keys add alice --keys-file keys.json                     make a key and show it, once
devstral-proxy keys add ci --tier batch --expires-days 30 --config proxy.toml
devstral-proxy keys list --keys-file keys.json                          who has one; never the keys
devstral-proxy keys revoke alice --keys-file keys.json""",
    notes=_TAKEN_OVER,
    codes=_CODES | {1: "no such key, or already one of that name"},
)
_ADDING: Final = Usage(
    command="keys add",
    about="Make a key and show it, once.",
    examples="""\
devstral-proxy keys add alice --keys-file keys.json
devstral-proxy keys add ci --tier batch --expires-days 30 --config proxy.toml
devstral-proxy keys add bob --keys-file keys.json > bob.key     the key alone goes to standard output""",
    notes=_TAKEN_OVER,
    codes=_CODES | {1: "there is already one of that name"},
)
_LISTING: Final = Usage(
    command="keys list",
    about="Show whose keys there are; never the keys.",
    examples="""\
devstral-proxy keys list --keys-file keys.json
devstral-proxy keys list --json --keys-file keys.json | jq '.[].name'""",
    codes=_CODES,
)
_REVOKING: Final = Usage(
    command="keys revoke",
    about="Remove a key, by its name or its id.",
    examples="""\
devstral-proxy keys revoke alice --keys-file keys.json
PROXY_KEYS_FILE=keys.json devstral-proxy keys revoke alice""",
    notes=_TAKEN_OVER,
    codes=_CODES | {1: "no such key, or several"},
)

#: Arbitrary: a hundred years; what is meant to last for ever has no date.
_LONGEST_DAYS: Final = 36_500


class _Refused(Exception):
    """What was asked for cannot be done to this file: exit code 1."""


def keys(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """
    Run `keys ARGUMENTS`; return the exit code. `--help` and wrong usage leave by SystemExit.

    Raises:
        ConfigError: the file of keys, or the configuration that names it, cannot be used.
    """
    parser = keys_parser()
    options = parser.parse_args(arguments)
    options.settings = _settings_in(options.config)
    path = options.keys_file or environ.get(VARIABLE) or options.settings.get("keys_file")
    if not path:
        parser.error(f"which file? --keys-file FILE, {VARIABLE}, or `keys_file` in --config FILE")
    try:
        options.run(path, options)
    except _Refused as exc:
        print(f"devstral-proxy: {exc}", file=sys.stderr)
        return 1
    return 0


def keys_parser() -> argparse.ArgumentParser:
    """Return what reads the arguments."""
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--keys-file", metavar="FILE", default="", help=f"the file of keys [{VARIABLE}]")
    where.add_argument("--config", metavar="FILE", default="", help="the TOML file whose `keys_file` names it")
    parser = parser_for(_USAGE)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = with_version(
        commands.add_parser("add", parents=[where], help="make a key and show it, once", **_ADDING.words)
    )
    add.add_argument("name", metavar="NAME", type=_name, help="whose it is; logs and limits call it so")
    add.add_argument("--tier", type=_name, help="which of `tiers` it belongs to; else it is `default`")
    add.add_argument("--expires-days", metavar="N", type=_days, help="for how many days it is good; else for ever")
    add.set_defaults(run=_add)
    list_ = with_version(
        commands.add_parser("list", parents=[where], help="show whose keys there are", **_LISTING.words)
    )
    list_.add_argument("--json", action="store_true", help="as JSON")
    list_.set_defaults(run=_list)
    revoke = with_version(commands.add_parser("revoke", parents=[where], help="remove a key", **_REVOKING.words))
    revoke.add_argument("which", metavar="NAME_OR_ID", help="whose key it is, or its id, as `list` shows them")
    revoke.set_defaults(run=_revoke)
    return parser


def _name(text: str) -> str:
    if not is_name(text) or is_id(text):
        raise argparse.ArgumentTypeError("use up to 64 letters, digits and . _ @ -, which do not look like an id")
    return text


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= _LONGEST_DAYS:
        raise argparse.ArgumentTypeError(f"use a whole number from 1 to {_LONGEST_DAYS}")
    return int(text)


def _settings_in(config: str) -> Mapping[str, Any]:
    """Return what a configuration file says of keys; "" is no file, and says nothing."""
    if not config:
        return {}
    try:
        values: Mapping[str, Any] = tomllib.loads(Path(config).read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"--config: cannot read {config}: {exc.strerror or type(exc).__name__}") from None
    except ValueError:
        raise ConfigError(f"--config: {config} is not a file of TOML") from None
    for name, kind, what in (("keys_file", str, "a path"), ("tiers", dict, "a table")):
        if not isinstance(values.get(name, kind()), kind):
            raise ConfigError(f"{config}: {name}: expected {what}")
    return values


# --- the commands


def _add(path: str, options: argparse.Namespace) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    expires = now + timedelta(days=options.expires_days) if options.expires_days else None
    key, entry = new_key(options.name, options.tier or "", now, expires)

    def change(entries: tuple[Entry, ...]) -> tuple[tuple[Entry, ...], None]:
        if any(kept.name == entry.name for kept in entries):
            raise _Refused(f"there is a key called {entry.name} in {path}: revoke it first, or take another name")
        return (*entries, entry), None

    change_entries(path, change)
    print(key)
    print(f"devstral-proxy: {entry.name} is in {path}; this key is not shown again", file=sys.stderr)
    if options.config and entry.lacks_tier(options.settings.get("tiers", {})):
        print(
            f"devstral-proxy: {options.config} has no tier {entry.tier}: without it the key is refused", file=sys.stderr
        )


def _list(path: str, options: argparse.Namespace) -> None:
    rows = [_shown(entry) for entry in read_entries(path)]
    if options.json:
        write_line(json.dumps(rows, indent=2))
        return
    table = [[column.upper() for column in _COLUMNS], *([str(row[column]) for column in _COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        write_line("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


_COLUMNS: Final = ("name", "id", "tier", "created", "expires")


def _shown(entry: Entry) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(entry)
    return {"tier": "default", "expires": "never"} | {name: plain[name] for name in _COLUMNS if name in plain}


def _revoke(path: str, options: argparse.Namespace) -> None:
    def change(entries: tuple[Entry, ...]) -> tuple[tuple[Entry, ...], Entry]:
        which = [entry for entry in entries if options.which in (entry.id, entry.name)]
        if len(which) != 1:
            raise _Refused(f"{len(which) or 'no'} keys in {path} have this name or id")
        return tuple(entry for entry in entries if entry is not which[0]), which[0]

    revoked = change_entries(path, change)
    print(f"devstral-proxy: {revoked.name} ({revoked.id}) is revoked in {path}", file=sys.stderr)
