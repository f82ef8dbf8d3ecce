"""
The command `doctor`: examine a model server, or all that are configured.

    0 nothing failed   1 something did   2 wrong usage   78 the configuration cannot be used (ConfigError)
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from proxy.config import Backend, Config, ConfigError, checked_backends, load_config
from proxy.config.own import own_and_settings, own_parser
from proxy.doctor.asking import Server
from proxy.doctor.case import Case
from proxy.doctor.checks import Result, examine
from proxy.doctor.report import as_data, is_rich, lines_of, marks_for, print_json, print_table, progress, summary
from proxy.printing import write_line
from proxy.upstream.profiles import Profiles
from proxy.usage import Usage
from proxy.values import base_url, header_token

_TIMEOUT_S: Final = 60.0
_LONGEST_TIMEOUT_S: Final = 3600.0

_USAGE: Final = Usage(
    command="doctor",
    about="Examine a vLLM: what is wrong with it, and what to type.",
    examples="""\
devstral-proxy doctor http://127.0.0.1:8000                     examine this vLLM
devstral-proxy doctor                                           examine all upstreams of the configuration
devstral-proxy doctor --config proxy.toml --json                the same, for a program
devstral-proxy doctor https://gpu1:8443 --ca-file ca.pem --api-key-file key
devstral-proxy doctor http://127.0.0.1:9000                     look through a running Devstral Proxy""",
    notes="""\
It asks what never generates, and lets the model write four short answers. Settings are read as by `serve`, from the
environment, --config FILE and flags such as --profile; the key of the configuration goes only to its own upstreams.""",
    codes={0: "nothing failed", 1: "something did", 78: "the configuration cannot be used"},
    form="devstral-proxy doctor [URL] [FLAGS]",
)


def doctor(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """
    Run `doctor ARGUMENTS`; return the exit code. `--help` and wrong usage leave by SystemExit.

    Raises:
        ConfigError: the configuration, the key or the certificates cannot be used.
    """
    options, flags = own_and_settings(_USAGE, _add_own, arguments)
    config = load_config(flags, environ, lambda path: Path(path).read_text(encoding="utf-8"))
    backends = _backends(options, config)
    if not backends:
        doctor_parser().error("which server? devstral-proxy doctor URL, VLLM_BASE, or `backends` in --config FILE")
    servers = [Server(backend, timeout_s=options.timeout) for backend in backends]
    data = []
    for server in servers:
        results = asyncio.run(_examined(_case(server, config, options.model), options))
        data.append(as_data(server.backend.name, server.backend.url, results))
    if options.json:
        print_json(data)
    return 0 if all(each["ok"] for each in data) else 1


# --- the command line


def doctor_parser() -> argparse.ArgumentParser:
    """Return what tells of this command's own arguments."""
    return own_parser(_USAGE, _add_own)


def _add_own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", nargs="?", default="", help="the server; else all that are configured")
    parser.add_argument("--model", metavar="NAME", default="", help="the model to ask; else the first that is listed")
    parser.add_argument("--api-key-file", metavar="FILE", default="", help="the file that holds the server's key")
    parser.add_argument("--ca-file", metavar="FILE", default="", help="the certificates, in PEM, that https:// trusts")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=_TIMEOUT_S,
        help=f"the longest wait for an answer of the model; for all else 10 at most (default {_TIMEOUT_S:g})",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"use a number of seconds, more than 0, at most {_LONGEST_TIMEOUT_S:g}")
    return seconds


# --- what is examined


def _backends(options: argparse.Namespace, config: Config) -> tuple[Backend, ...]:
    """
    Return what is to be examined.

    Raises:
        ConfigError: the URL, the key or the certificates cannot be used.
    """
    configured = checked_backends(config)
    chosen = configured
    if options.url:
        url = _checked_url(options.url)
        # A URL that is not configured gets no configured key: whoever mistypes a host would give it away.
        named = Config(vllm_base=url, profile=config.profile)
        chosen = tuple(each for each in configured if each.url == url) or checked_backends(named)
    changes: dict[str, Any] = {}
    if options.api_key_file:
        changes["api_key"] = _key_in(options.api_key_file)
    if options.ca_file:
        changes["ca_file"] = options.ca_file
    return tuple(msgspec.structs.replace(backend, **changes) for backend in chosen)


def _checked_url(text: str) -> str:
    try:
        return base_url(text if "://" in text or text.startswith("unix:") else f"http://{text}")
    except ValueError as exc:
        raise ConfigError(f"URL: {exc}") from None


def _key_in(path: str) -> str:
    try:
        key = header_token(Path(path).read_text(encoding="utf-8").strip())
    except OSError as exc:
        raise ConfigError(f"--api-key-file: cannot read {path}: {exc.strerror or type(exc).__name__}") from None
    except ValueError:
        raise ConfigError(f"--api-key-file: {path} does not hold a key that fits into a header") from None
    if not key:
        raise ConfigError("--api-key-file: the file is empty")
    return key


def _case(server: Server, config: Config, model: str) -> Case:
    try:
        profile = Profiles(config.options).profile_for(server.backend, None, {})
    except ValueError as exc:
        raise ConfigError(f"options: {exc}") from None
    return Case(server, config, wanted_model=model, profile=profile)


async def _examined(case: Case, options: argparse.Namespace) -> list[Result]:
    """Examine one server, and show it as it goes, unless JSON is wanted."""
    is_table = not options.json and is_rich(sys.stdout)
    marks = marks_for(sys.stdout)
    results: list[Result] = []
    if not options.json:
        write_line(f"devstral-proxy doctor: {case.server.backend.url}")
    async with case.server:
        with progress() as begins:
            async for check, outcome in examine(case, begins):
                results.append((check, outcome))
                if not options.json and not is_table:
                    for line in lines_of(check, outcome, marks):
                        write_line(line)
    if is_table:
        print_table(results)
    if not options.json:
        write_line(summary(results))
    return results
