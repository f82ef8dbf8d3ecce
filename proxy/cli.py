"""
The command line: devstral-proxy [COMMAND] [FLAGS].

argparse is enough here: every flag is derived from the table in config/settings.py, so a library for declaring
commands would have nothing left to declare.
"""

import argparse
import difflib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from proxy.config import Config, ConfigError, Reader, add_flags, load_config, masked
from proxy.printing import write_line
from proxy.usage import Usage, parser_for

#: Makes the settings, now or again later, out of this command line, the environment and files that it reads so.
Load = Callable[[Reader], Config]


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
        return COMMANDS[command].run(partial(load_config, flags, os.environ))
    except ConfigError as exc:
        print(f"devstral-proxy: {exc}", file=sys.stderr)
        return ExitCode.CONFIG
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _split(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the command and its flags. Unknown flags are left for `load_config`, which names the nearest one."""
    parser = program_parser()
    has_command = bool(arguments) and not arguments[0].startswith("-")
    command, flags = (arguments[0], arguments[1:]) if has_command else ("serve", arguments)
    if command not in COMMANDS:
        names = (*COMMANDS, *WITH_ARGUMENTS)
        near = difflib.get_close_matches(command, names, n=1)
        parser.error(f"the command is not one of {', '.join(names)}" + (f"; did you mean {near[0]}?" if near else ""))
    reader = command_parser(command) if has_command else parser
    rest = reader.parse_known_args(flags)[1]
    if rest and not rest[0].startswith("-"):
        parser.error("the command comes first, and flags start with --")
    return command, flags


def program_parser() -> argparse.ArgumentParser:
    """Return what tells of the program as a whole; without a command it serves, so it has that one's flags."""
    own = ((name, command.usage.about) for name, command in COMMANDS.items())
    with_arguments = ((name, function.__doc__) for name, function in WITH_ARGUMENTS.items())
    commands = "\n".join(f"  {name:14}{about}" for name, about in (*own, *with_arguments))
    usage = _PROGRAM._replace(about=f"{_PROGRAM.about}\n\ncommands:\n{commands}")
    parser = parser_for(usage)
    add_flags(parser)
    return parser


def command_parser(name: str) -> argparse.ArgumentParser:
    """Return what tells of one of `COMMANDS`."""
    parser = parser_for(COMMANDS[name].usage)
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
    from proxy.access.checks import keys_without_tier
    from proxy.access.exposure import check_exposure
    from proxy.observe.sink import check_log_file
    from proxy.process.reload import check

    config = load(_read_file)
    check_log_file(config.log_file)
    check(config)
    check_exposure(config, (config.host,))
    for entry in keys_without_tier(config):
        print(
            f"devstral-proxy: the key {entry.name} is refused: its tier {entry.tier} is not among `tiers`",
            file=sys.stderr,
        )
    print("devstral-proxy: the configuration is valid", file=sys.stderr)
    return ExitCode.CLEAN


def _print_config(load: Load) -> int:
    """Print the configuration in effect as JSON, secrets masked."""
    write_line(json.dumps(masked(load(_read_file)), indent=2, ensure_ascii=False))
    return ExitCode.CLEAN


class Command(NamedTuple):
    """A command whose flags are the settings."""

    run: Callable[[Load], int]
    usage: Usage


_SETTINGS: Final = """\
Every flag has a twin in the environment, in brackets above, and a key in the file, which is the flag's name
with underscores. A flag wins over the environment, the environment over the file."""
_WRONG: Final = {ExitCode.CONFIG.value: "the configuration cannot be used"}
_SERVING: Final = {
    ExitCode.CLEAN.value: "ended as asked, also by SIGTERM",
    ExitCode.FAILURE.value: "failed while running",
    ExitCode.UNAVAILABLE.value: "the address cannot be listened on",
    ExitCode.INTERRUPTED.value: "Ctrl-C",
    **_WRONG,
}

_PROGRAM: Final = Usage(
    command="",
    about="OpenAI-compatible agents on Mistral models behind vLLM, unmodified.",
    examples="""\
devstral-proxy                                      serve, with the embedded demo upstream
devstral-proxy --vllm-base http://127.0.0.1:8000    serve in front of vLLM
devstral-proxy --port 0 --option bridge=never       any free port, one option of the profile changed
devstral-proxy check-config --config proxy.toml     check a configuration, and start nothing
devstral-proxy keys add alice --keys-file keys.json make a key for a client; see devstral-proxy keys --help
devstral-proxy tail -f --errors proxy.log           what goes wrong, for people; see devstral-proxy tail --help
devstral-proxy doctor http://127.0.0.1:8000         what is wrong with this vLLM, and what to type
devstral-proxy explain request.json                 what would be sent for this body, and why
devstral-proxy healthcheck --ready                  for containers: is the proxy of this configuration ready?
eval "$(devstral-proxy completion bash)"            complete commands, flags and values on the Tab key""",
    notes=_SETTINGS,
    codes=_SERVING,
    form="devstral-proxy [COMMAND] [FLAGS]",
)

COMMANDS: Final[Mapping[str, Command]] = MappingProxyType(
    {
        "serve": Command(
            _serve,
            Usage(
                command="serve",
                about="Run the proxy until SIGTERM or SIGINT; this is the default.",
                examples="""\
devstral-proxy serve --vllm-base http://127.0.0.1:8000
devstral-proxy serve --config proxy.toml --workers 2
VLLM_BASE=http://127.0.0.1:8000 devstral-proxy serve --metrics-port 9090""",
                notes=_SETTINGS,
                codes=_SERVING,
                form="devstral-proxy serve [FLAGS]",
            ),
        ),
        "demo": Command(
            _demo,
            Usage(
                command="demo",
                about="Run the proxy in front of the embedded demo upstream.",
                examples="""\
devstral-proxy demo                                 at http://127.0.0.1:9000/v1
devstral-proxy demo --port 0 --strict               any free port; requests are refused instead of mended""",
                notes=_SETTINGS,
                codes=_SERVING,
                form="devstral-proxy demo [FLAGS]",
            ),
        ),
        "check-config": Command(
            _check_config,
            Usage(
                command="check-config",
                about="Check the configuration and start nothing.",
                examples="""\
devstral-proxy check-config --config proxy.toml
devstral-proxy check-config --config proxy.toml && systemctl reload devstral-proxy""",
                notes=_SETTINGS,
                codes={ExitCode.CLEAN.value: "it can be used", **_WRONG},
                form="devstral-proxy check-config [FLAGS]",
            ),
        ),
        "print-config": Command(
            _print_config,
            Usage(
                command="print-config",
                about="Print the configuration in effect as JSON, secrets masked.",
                examples="""\
devstral-proxy print-config --config proxy.toml
devstral-proxy print-config | jq .backends""",
                notes=_SETTINGS,
                codes={ExitCode.CLEAN.value: "printed", **_WRONG},
                form="devstral-proxy print-config [FLAGS]",
            ),
        ),
    }
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


def _completion(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Write a script with which a shell completes commands, flags and values."""
    from proxy.completion import completion

    return completion(arguments, program_parser(), _parsers())


WITH_ARGUMENTS: Final[Mapping[str, Callable[[Sequence[str], Mapping[str, str]], int]]] = MappingProxyType(
    {
        "keys": _keys,
        "tail": _tail,
        "doctor": _doctor,
        "explain": _explain,
        "healthcheck": _healthcheck,
        "completion": _completion,
    }
)


def _parsers() -> Mapping[str, argparse.ArgumentParser]:
    """Return what tells of each command, with all flags that it takes."""
    from proxy.access.commands import keys_parser
    from proxy.completion import completion_parser
    from proxy.doctor.command import doctor_parser
    from proxy.explain.command import explain_parser
    from proxy.healthcheck import healthcheck_parser
    from proxy.tail.command import tail_parser

    with_settings = {"doctor": doctor_parser(), "healthcheck": healthcheck_parser()}
    for parser in with_settings.values():
        add_flags(parser)
    return {
        **{name: command_parser(name) for name in COMMANDS},
        "keys": keys_parser(),
        "tail": tail_parser(),
        "explain": explain_parser(),
        "completion": completion_parser(),
        **with_settings,
    }
