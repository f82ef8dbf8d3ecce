"""
The command line: devstral-proxy [COMMAND] [FLAGS].

argparse is enough here: every flag is derived from the table in config.py, so a library for declaring
commands would have nothing left to declare.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from proxy import __version__
from proxy.config import Config, ConfigError, Reader, add_flags, load_config, masked

#: Makes the settings, now or again later, out of this command line, the environment and files that it reads so.
Load = Callable[[Reader], Config]

EXAMPLES = """\
examples:
  devstral-proxy                                      serve, with the embedded demo upstream
  devstral-proxy --vllm-base http://127.0.0.1:8000    serve in front of vLLM
  devstral-proxy --port 0 --option bridge=never       any free port, one option of the profile changed
  devstral-proxy check-config --config proxy.toml     check a configuration, and start nothing
  devstral-proxy keys add alice --keys-file keys.json make a key for a client; see devstral-proxy keys --help
  devstral-proxy tail -f --errors proxy.log           what goes wrong, for people; see devstral-proxy tail --help
  devstral-proxy doctor http://127.0.0.1:8000         what is wrong with this vLLM, and what to type
  devstral-proxy explain request.json                 what would be sent for this body, and why
  devstral-proxy healthcheck --ready                  for containers: is the proxy of this configuration ready?

Every flag has a twin in the environment, in brackets above, and a key in the file, which is the flag's name
with underscores. A flag wins over the environment, the environment over the file."""


class ExitCode(IntEnum):
    """How the process ends, in the words of sysexits.h where it has one."""

    CLEAN = 0
    FAILURE = 1
    USAGE = 2
    UNAVAILABLE = os.EX_UNAVAILABLE
    CONFIG = os.EX_CONFIG
    INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code. `--help`, `--version` and usage errors leave by SystemExit."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        if arguments and arguments[0] in WITH_ARGUMENTS:
            return WITH_ARGUMENTS[arguments[0]](arguments[1:], os.environ)
        command, flags = _split(arguments)
        return COMMANDS[command](partial(load_config, flags, os.environ))
    except ConfigError as exc:
        print(f"devstral-proxy: {exc}", file=sys.stderr)
        return ExitCode.CONFIG
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _split(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the command and its flags. Unknown flags are left for `load_config`, which names the nearest one."""
    parser = _parser()
    has_command = bool(arguments) and not arguments[0].startswith("-")
    command, flags = (arguments[0], arguments[1:]) if has_command else ("serve", arguments)
    if command not in COMMANDS:
        parser.error(f"the command is not one of {', '.join((*COMMANDS, *WITH_ARGUMENTS))}")
    rest = parser.parse_known_args(flags)[1]
    if rest and not rest[0].startswith("-"):
        parser.error("the command comes first, and flags start with --")
    return command, flags


def _parser() -> argparse.ArgumentParser:
    about = {name: function.__doc__ for name, function in (*COMMANDS.items(), *WITH_ARGUMENTS.items())}
    commands = "\n".join(f"  {name:14}{text}" for name, text in about.items())
    parser = argparse.ArgumentParser(
        prog="devstral-proxy",
        usage="devstral-proxy [COMMAND] [FLAGS]",
        description=f"OpenAI-compatible agents on Mistral models behind vLLM, unmodified.\n\ncommands:\n{commands}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"devstral-proxy {__version__}")
    add_flags(parser)
    return parser


def _read_file(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


# --- commands


def _serve(load: Load) -> int:
    """Run the proxy until SIGTERM or SIGINT; this is the default."""
    # imported here, so that the other commands need no event loop
    from proxy.process.serve import serve

    return serve(load)


def _demo(load: Load) -> int:
    """Run the proxy in front of the embedded demo upstream."""
    return _serve(
        lambda read_file: msgspec.structs.replace(load(read_file), vllm_base="", vllm_api_key="", backends=())
    )


def _check_config(load: Load) -> int:
    """Check the configuration and start nothing."""
    # imported here, so that `print-config` needs no server
    from proxy.access.exposure import check_exposure
    from proxy.observe.sink import check_log_file
    from proxy.process.reload import check

    config = load(_read_file)
    check_log_file(config.log_file)
    check(config)
    check_exposure(config, (config.host,))
    print("devstral-proxy: the configuration is valid", file=sys.stderr)
    return ExitCode.CLEAN


def _print_config(load: Load) -> int:
    """Print the configuration in effect as JSON, secrets masked."""
    print(json.dumps(masked(load(_read_file)), indent=2, ensure_ascii=False))
    return ExitCode.CLEAN


COMMANDS: Final[Mapping[str, Callable[[Load], int]]] = MappingProxyType(
    {"serve": _serve, "demo": _demo, "check-config": _check_config, "print-config": _print_config}
)


# --- commands with arguments of their own; what each needs is loaded by itself, since some start often


def _keys(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Add, list and revoke API keys."""
    from proxy.access.commands import keys

    return keys(arguments, environ)


def _tail(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Show the log for people, with filters."""
    # imported here, so that a proxy does not carry it
    from proxy.tail.command import tail

    return tail(arguments, environ)


def _doctor(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Examine a vLLM: what is wrong with it, and what to type."""
    from proxy.doctor.command import doctor

    return doctor(arguments, environ)


def _explain(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Show what becomes of a request, a stream or an answer, and why."""
    from proxy.explain.command import explain

    return explain(arguments, environ)


def _healthcheck(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Ask a proxy on this machine whether it lives, for containers."""
    from proxy.healthcheck import healthcheck

    return healthcheck(arguments, environ)


WITH_ARGUMENTS: Final[Mapping[str, Callable[[Sequence[str], Mapping[str, str]], int]]] = MappingProxyType(
    {"keys": _keys, "tail": _tail, "doctor": _doctor, "explain": _explain, "healthcheck": _healthcheck}
)
